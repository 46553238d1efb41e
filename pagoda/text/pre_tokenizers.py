"""Pre-tokenizers: how byte-level BPE vocabularies split a text before merging, by the name in GGUF's `tokenizer.ggml.pre`.

Names and expressions are llama.cpp's. Where llama.cpp approximates a character class that its regex engine lacks, the expression is
the one in the model's tokenizer.json. To add a name, add it to PRE_TOKENIZERS.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """The way in which a text is split before merging."""

    patterns: tuple[str, ...]
    """Regular expressions, each applied to the pieces of the one before. Matches and the text between them become pieces."""
    whole_words_first: bool = False
    """True if a piece that is in the vocabulary becomes that token without merging."""
    composed: bool = False
    """True if the model was trained on text in Unicode's composed form (NFC)."""
    add_bos: bool = False
    """True if prompts begin with the beginning-of-sequence token unless the metadata says otherwise."""
    add_sep: bool = False
    """True if a whole text ends with the separator token."""
    is_raw: bool = False
    """True if the vocabulary has characters, with "▁" for a space, and not an alphabet of bytes."""

    def build(self) -> pre_tokenizers.PreTokenizer:
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        if self.is_raw:
            return pre_tokenizers.Sequence(splits)
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_LLAMA3 = _WORDS.replace("DIGITS", "{1,3}")
_QWEN2 = _WORDS.replace("DIGITS", "")
_QWEN35 = (
    _SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
)  # marks (\p{M}) belong to words
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED_CODER = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES

# A word ends where a capital follows small letters: "camelCase" is two words.
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+SUFFIX|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*SUFFIX"
    rf"|\p{{N}}DIGITS| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_TEKKEN = _CASED.replace("SUFFIX", "").replace("DIGITS", "")
_GPT4O = _CASED.replace("SUFFIX", _SUFFIX + "?").replace("DIGITS", "{1,3}")

_KIMI = (
    r"[\p{Han}]+|"
    + _GPT4O.replace(_CAPITALS, _CAPITALS[:-1] + r"&&[^\p{Han}]]").replace(_SMALL, _SMALL[:-1] + r"&&[^\p{Han}]]")
).replace(r"[\r\n/]*", r"[\r\n]*")
_WITHOUT_SUFFIX = _QWEN2.removeprefix(_SUFFIX + "|")
_EXAONE_MOE = (
    _SUFFIX + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = (
    _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
    + "".join(rf"|\s{{{length}}}(?!\S)" for length in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
    + r"|\s"
)
_MINICPM5 = (r"\p{N}{1,3}", _WORDS.replace("DIGITS", "+"))
_LINES = r"[^\n]+|\n+"
_NEWLINES = r"\n+"

# Groups of three digits are counted from the right: 1 234 567. The first expression finds numbers, the second divides them. Only
# its first match looks ahead, so that the time for long numbers is linear.
_GROUPS_FROM_RIGHT = r"\A\d{1,3}(?=(?:\d{3})*\z)|(?!\A)\G\d{3}"
_AFMOE_DIGITS = (r"\p{N}+", _GROUPS_FROM_RIGHT.replace(r"\d", r"\p{N}"))
_TINY_AYA = (r"(?<!\d)\d++\b", _GROUPS_FROM_RIGHT, _GPT4O)
# The last expression is for digits beside other numbers, such as 1234½.
_SUPERBPE = (r"(?<!\p{N})\d++(?!\p{N})", r"\p{N}+", _GROUPS_FROM_RIGHT, r"(?=(?:\d{3}){1,20}(?!\d))")
_ONE_DIGIT, _THREE_DIGITS = r"\p{N}", "[0-9][0-9][0-9]"
_NOT_PUNCTUATION = r" ?[^(\s|.,!?…。，、।۔،)]+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
"""Letters of the model's own expression, as escapes, because Unicode normalization would change some of them."""
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    r"\s?[!-/:-~" "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002" r"]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _ONE_DIGIT)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES,
)
_SPARK = (
    *_DEEPSEEK_V3[:2],
    _DEEPSEEK_V3[2].replace(r"[\p{P}\p{S}]+[\r\n]*", r"[\p{P}\p{S}]+").replace(r"\s*[\r\n]+", r"[\r\n]"),
    _ONE_DIGIT,
)
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_AFMOE = (*_AFMOE_DIGITS, _ASIAN, _DEEPSEEK_V3[2])
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    _CASED.replace("SUFFIX", _SUFFIX + "?").replace("DIGITS", ""),
)
_CHAMELEON = (
    "<sentinel:[0-9]+>",
    "IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    _ONE_DIGIT,
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
)

_gpt2 = PreTokenizer((_GPT2,))
_single_digits = PreTokenizer((_ONE_DIGIT, _GPT2))
_llama3 = PreTokenizer((_LLAMA3,), whole_words_first=True, add_bos=True)
_three_digits = PreTokenizer((_LLAMA3,))
_qwen2 = PreTokenizer((_QWEN2,), composed=True)
_gpt4o = PreTokenizer((_GPT4O,))
_bloom = PreTokenizer((_NOT_PUNCTUATION,))
_bailing = PreTokenizer((_BAILING,))
_with_separator = PreTokenizer((_GPT2,), add_sep=True)
_deepseek_v3 = PreTokenizer(_DEEPSEEK_V3)
_tiny_aya = PreTokenizer(_TINY_AYA)
_lines_of_pieces = PreTokenizer((_NEWLINES,), is_raw=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE_DIGITS)),
    "gpt-2": _gpt2,
    "phi-2": _gpt2,
    "mpt": _gpt2,
    "olmo": _gpt2,
    "jais": _gpt2,
    "trillion": _gpt2,
    "exaone4": _gpt2,
    "gigachat": _gpt2,
    "mellum": _gpt2,
    "a.x-4.0": _gpt2,
    "granite-docling": _gpt2,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "refact": _single_digits,
    "command-r": _single_digits,
    "codeshell": _single_digits,
    "exaone": _single_digits,
    "minerva-7b": _single_digits,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "falcon3": _llama3,
    "falcon-h1": _llama3,
    "pixtral": _llama3,
    "midm-2.0": _llama3,
    "lfm2": _llama3,
    "dbrx": _three_digits,
    "smaug-bpe": _three_digits,
    "chatglm-bpe": _three_digits,
    "glm4": _three_digits,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "megrez": _qwen2,
    "stablelm2": PreTokenizer((_QWEN2,)),
    "hunyuan": PreTokenizer((_QWEN2,)),
    "solar-open": PreTokenizer((_QWEN2,)),
    "grok-2": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer((_QWEN35,), composed=True),
    "seed-coder": PreTokenizer((_SEED_CODER,)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words_first=True, add_bos=True),
    "gpt-4o": _gpt4o,
    "llama4": _gpt4o,
    "kanana2": _gpt4o,
    "minimax-m2": _gpt4o,
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "deepseek-v3": _deepseek_v3,
    "hunyuan-dense": _deepseek_v3,
    "joyai-llm": _deepseek_v3,
    "hy_v4": _deepseek_v3,
    "spark2_5": PreTokenizer(_SPARK),
    "afmoe": PreTokenizer(_AFMOE),
    "youtu": PreTokenizer(_YOUTU, whole_words_first=True),
    "chameleon": PreTokenizer(_CHAMELEON, add_bos=True),
    "superbpe": PreTokenizer(_SUPERBPE),
    "tiny_aya": _tiny_aya,
    "cohere2moe": _tiny_aya,
    "kimi-k2": PreTokenizer((_KIMI,), whole_words_first=True),
    "exaone-moe": PreTokenizer((_EXAONE_MOE,)),
    "jais-2": PreTokenizer((_JAIS2,)),
    "minicpm5": PreTokenizer(_MINICPM5, whole_words_first=True),
    "laguna": PreTokenizer((_LINES, _QWEN2)),
    "ufakzeka": PreTokenizer((_WITHOUT_SUFFIX,)),
    "gemma4": _lines_of_pieces,
    "granite-embed-multi-311m": _lines_of_pieces,
    "sarvam-moe": _lines_of_pieces,
    "granite-embed-multi-97m": PreTokenizer((_GPT4O,), whole_words_first=True),
    "talkie": _gpt4o,
    "kormo": _qwen2,
    "f2llmv2": _qwen2,
    "mellum2": _single_digits,
    "glm5": _three_digits,
    "jina-v5-nano": _llama3,
    "jina-es": _gpt2,
    "jina-de": _gpt2,
    "jina-v2-es": _gpt2,
    "jina-v2-de": _gpt2,
    "modern-bert": _gpt2,
    "jina-v1-en": _with_separator,
    "jina-v2-code": _with_separator,
    "roberta-bpe": _with_separator,
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREE_DIGITS)),
    "bloom": _bloom,
    "poro-chat": _bloom,
    "gpt3-finnish": _bloom,
    "viking": PreTokenizer((_NOT_PUNCTUATION, _ONE_DIGIT)),
    "bailingmoe": _bailing,
    "bailingmoe2": _bailing,
    "llada-moe": _bailing,
}
