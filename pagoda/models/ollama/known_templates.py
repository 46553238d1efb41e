"""The Go templates that Ollama and its library are known to have, each with the Jinja template that writes the same prompts.

A template is known by the SHA-256 of its parts (go_templates.py). Templates of tools are known too, but their texts for tools are
not written: the gateway describes tools to these models as it does to those whose template knows none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.models.ollama.known_exchanges import EXCHANGES


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """The Jinja equivalent of a Go template."""

    family: str
    """Name of the file in templates/."""
    variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Variables that the file uses, for families whose templates differ only in texts."""


_OF_OLLAMA = {
    "b4ff27d15c4b9285fd19f48bc9f7742003e5abda8db33111315d80ce47c71c10": KnownTemplate("prompt"),
    "a8a841ce0706b1999af61f2fe0ce8f241ec97de59282a6ab07a196a31919c5ff": KnownTemplate("alfred"),
    "d605144bedfc1d5363975bf75d59b009d21384a19edeb7bf41f78233dfd4957e": KnownTemplate("alpaca"),
    "f1abbb81bc6b48679e4e804deefb2ca710234d11592d5f2178ca7d993c89cc9c": KnownTemplate("chatml"),
    "dc1b7a23360abc1a8c848e865cd45b3b2bab8e0dcb64ae01e550b58f3a68d240": KnownTemplate("chatqa"),
    "0f7b4e84d7d4940d22427ac72e75e7ee89f7dfe2d486ccae85cc65e46a907450": KnownTemplate("codellama-70b-instruct"),
    "c03a6f38c78bb4b2704167e7d06c35b94a0c58c6056b729c833e90d32ee05862": KnownTemplate("command-r", {"tail": "\n"}),
    "a7ecf3f549d0f85e359a3214fbd07d6f4517c0bc87d97d8d5cd3c9f6fa49bb58": KnownTemplate("falcon-instruct"),
    "b47c67271ea5e13252f095667a3b208fdd3c4b69edba4cdf5bd95c205b704824": KnownTemplate("gemma-instruct"),
    "9ec1e9aef72148d457a41b186346a2d7bd07df4803cbb471f9ff6e1e944c90ae": KnownTemplate(
        "gemma3-instruct", {"after_system": "\n\n", "tail": "\n"}
    ),
    "542fa69e7a82daeabb8e05c0b7580f5c5b842bd8cad4ec4d333c46f3917520ea": KnownTemplate("granite-instruct"),
    "c806c07fdbcf0b209705911fce6d5f4250e068a537e2c061e89d69b646be7638": KnownTemplate("llama2-chat"),
    "1ef467a5d009b4ad80d74a061c0d63ab40cb7617e2d7a633d279c939863185cb": KnownTemplate("llama3-instruct"),
    "3ea427dc5bbb35ec03708846a505d59efd69709cf645f6468cf95aa43ba24f23": KnownTemplate("magicoder"),
    "c6bf74268613a4b3cb21a1c159528fae6cbe39e4b798bcfac5c907e567a2fcc4": KnownTemplate("mistral-instruct"),
    "bdc2cba839b0390a6d0ccf7a4d134cdd62b5b4d4ba786d3ea9b349c8e4755037": KnownTemplate("openchat"),
    "57702ce145c5547fe65d10b9a2bda48f985508fe945d5d26f93814826b8c807c": KnownTemplate("phi-3"),
    "048dd2ed58f5834a759cc8fd259993f07bf11c54787fb1139e91b1e0374a99a7": KnownTemplate("solar-instruct"),
    "5aaf8163637009417e819ee6e80934d63b7e357c3a5db386ab8f100ca9281549": KnownTemplate("starcoder2-instruct"),
    "39f97d8427a8ff3944224644542eaf1393f57d4da56ce0e313c068a486e8c3f3": KnownTemplate("vicuna"),
    "290dc8166f8ab83fd38ff2d58a7a177dd4fbcf2bb127ef9f9596c44428e13903": KnownTemplate("zephyr"),
}
"""The templates that Ollama gives to GGUF files, under Ollama's own names."""

_OF_THE_LIBRARY = {
    # aya-expanse, command-r, command-r-plus
    "fa7e79102ad0cdae342e9634edfda0edaba8b23a7be7e721ef67100283f6715f": KnownTemplate("command-r"),
    # cogito, qwen2.5, qwen3
    "98334ad57830266266b580568621a3620659f7274b7ca3c23230f2003cf6f151": KnownTemplate("qwen"),
    # command-r-plus
    "2e258847ea3628dd1952129eacab4663ea33466cdb217bdd5721970d0205f842": KnownTemplate("command-r"),
    # command-r-plus
    "da86d5edcbf8df2e4f2a0e3c73951638085fb42ee27094eaaae491bd31c5475e": KnownTemplate("command-r"),
    # deepcoder, deepseek-r1, r1-1776
    "aedc51542c3e1a56853c730ee2965eff2eef8b54fc5946b967fdabb7d1c08951": KnownTemplate("deepseek"),
    "021b959fc45d79973ae28bce72183c842276303e5c2a8c64fdec8879d4b98b0b": KnownTemplate("deepseek-r1"),
    "2ebc26abee48f84c1c33053a4e2cec5213ba690ec2db81c840ef417935abb308": KnownTemplate("gemma3"),
    # gemma3
    "940ca43236a56451418a88a6b6ed5006cfb9b8937d5423481ea30e7b7b3de0a6": KnownTemplate("gemma3-270m"),
    # granite-code
    "483eceeac0f2073c75e34bbc36dcae02a20b027da518713b43cf9175ebb512d3": KnownTemplate("granite-instruct"),
    # granite3-dense
    "9a12a5fcc7d4d596cd2775c7d22e19c51b07782456d2ef11c356014b86f98e3c": KnownTemplate("granite3"),
    "25db3edad58b2b0895884148113e5340f9648541d04ebc2e5e0c141cbb955ff2": KnownTemplate("llama3.1"),
    "ec5abbfcde96aec57536db9ac2afa4b2fadf47564e28d5313a1ea9dc4aa2863e": KnownTemplate("llama3.2"),
    # llama3.2-vision
    "11947a214ee6bc9c5e5bf862137aeece3966ce48fb84b53cef3de7fc75f3572f": KnownTemplate("llama3-instruct"),
    # marco-o1
    "6d459f5f9d3a0557a499bbf6c79b751079081662e0c0b2178759a53bb8e619bb": KnownTemplate("chatml"),
    "1c008a6ca117b8dca3b14d039c778de8038323491f017314adc3673b666d7102": KnownTemplate(
        "mistral", {"before_prompt": "[INST] ", "before_answer": " "}
    ),
    "48b7b6ca3b7d562e0c4facacb9f3b1ed7216861546d76ee8c22dec9f76038522": KnownTemplate(
        "mistral", {"before_prompt": "[INST] ", "before_answer": " "}
    ),
    "e85ee6b9a7278504f5f5685f9e2a263a101eb720308026f80170165555e72437": KnownTemplate(
        "mistral", {"before_prompt": "[INST] ", "before_answer": " "}
    ),
    "0b203638f0fa5eabf3e7326cb1543ee4ba377b6f58bd9bb35a17d014dfbeb34e": KnownTemplate("mistral-small"),
    # mistral_nemo
    "ee5181b57d8585d06843c8b1207248902b3df813acc23337bc4ac8db56792d48": KnownTemplate(
        "mistral", {"before_prompt": "[INST]", "before_answer": " "}
    ),
    # mistral_v03
    "fd0364cdc0aaced8d3a22fa988bd42ba1b0eff764e05a050272ac17c93d2e63c": KnownTemplate(
        "mistral", {"before_prompt": "[INST] ", "before_answer": ""}
    ),
    # mixtral
    "e5db2c1ebe3bd9de3065bfc1bacdc53a9a9888fdd493e1293525829a10d233f0": KnownTemplate(
        "mistral", {"before_prompt": "[INST] ", "before_answer": " "}
    ),
    # nemotron-mini
    "f8a63dfa28e93f212ca4af494ece721c530d008ea95e9482815477ec75cc6d56": KnownTemplate("nemotron"),
    "7a99ef966b641af175423ff800754c05582269b025a01835ce9b3524315b28bc": KnownTemplate("olmo2"),
    # opencoder
    "ef626c757a2cdf35786d83e258a7f8e530d6ceaf04341e9c28a87c5ff4f79a3d": KnownTemplate("chatml"),
    "79ee5f1b540b87f93722abc5c931360ea854379a085fda6278da58ccb5c319fa": KnownTemplate("phi4"),
    "c9721c80e4be69bafa26ce6cde62abf7453dab58d21790b281c45afaab45fbdd": KnownTemplate("phi4-mini"),
    # phi_4_mini_reasoning
    "81dabcae5dac5b151c4926c0caa659defa3c190c847cea257500fb9a46e89df5": KnownTemplate("phi4-mini"),
    # qwen2.5-coder
    "a69f8c802dc2bba6f9f0fd076eecb4fb6a48da379f11c8e0bf599e280de1b2cb": KnownTemplate("qwen"),
    "a7eb3e2e0324fedaf5e1b6cda5846b126da73967f5ea3ad5a58be7acbdde0582": KnownTemplate("qwen3"),
    # qwen3-coder
    "08f73ae9a8931bf5d1a0b35c943781d8bc081fdec681a5013bd11aa1b4e32290": KnownTemplate("qwen"),
    # qwen_25_coder
    "b248afa3c2f3ebda8969ba34b813a9923a4171de528c8a3c4df57e18c1c4d38d": KnownTemplate("qwen"),
    # qwq
    "bf57e05e12af13d723927926bc824f613cda209779a4642320a18bf373ad4325": KnownTemplate("qwen"),
    # sailor2, smallthinker
    "a1bc5acefd9dc606212ff938ba0a305fc442f3b64a2bd8b2f204eb708b370ec2": KnownTemplate("chatml"),
    # smollm2
    "61c5e09214385347d16ffa0ecebad56449112e618eb1b55d597cf2941bed3c97": KnownTemplate("qwen"),
    # yi-coder
    "c6c9f6b128fb35701f1d2c1a2c4129175b538a8194ee2e029f5820a7feea3ae5": KnownTemplate("chatml"),
    "7ef1d9c88eeec05f0f5df84fa105890fc463e34d646e9ee674000281cb548d95": KnownTemplate(
        "gemma3-instruct", {"after_system": "\n", "tail": "\n"}
    ),
}
"""Templates of models in Ollama's library, under their names, and earlier versions of Ollama's own."""

KNOWN: Mapping[str, KnownTemplate] = {
    **_OF_OLLAMA,
    **_OF_THE_LIBRARY,
    **{key: KnownTemplate("exchanges", exchange) for key, exchange in EXCHANGES.items()},
}
