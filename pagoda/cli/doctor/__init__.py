"""`pagoda doctor`: what this machine can run, and what is wrong with the set-up.

One file per subject, each with functions that return findings and change nothing.
"""
