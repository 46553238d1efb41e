"""`pagoda doctor`: checks what this machine can run and whether Pagoda is set up correctly.

Each module has functions for one subject. They return findings and change nothing.
"""
