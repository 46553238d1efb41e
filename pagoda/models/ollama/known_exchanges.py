"""Known Go templates that write one exchange: a system prompt, a prompt and the answer. templates/exchanges.jinja renders them."""

from collections.abc import Mapping
from typing import Any


def _exchange(
    system: tuple[str, str],
    prompt: tuple[str, str],
    answer: tuple[str, str],
    *,
    before: str = "",
    no_system: str = "",
    no_prompt: str = "",
) -> Mapping[str, Any]:
    """Return the texts before and after each part, before the whole, and instead of a part that is missing."""
    return {
        "before": before,
        "system_texts": system,
        "no_system": no_system,
        "prompt_texts": prompt,
        "no_prompt": no_prompt,
        "answer_texts": answer,
    }


EXCHANGES = {
    # Of models in the library.
    # aya
    "b7e864b869f6a7945f2ce844bf2e53362f4dc53108e831c9f3d49a6e8de34f70": _exchange(
        ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    # dbrx, dolphin-llama3, dolphin-mixtral, qwen2, stable-code
    "b04a3e34880195edb26d53002880c298bdd3a96f35de7f395191fd17455a5264": _exchange(
        ("<|im_start|>system\n", "<|im_end|>\n"),
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", "<|im_end|>\n"),
    ),
    # deepseek-coder
    "cc75aaa6086723dc96adb9b47880ccd448c00a64181e3b04c2fe24f270df1daa": _exchange(
        ("", ""), ("\n### Instruction:\n", ""), ("\n### Response:\n", ""), no_prompt="\n### Instruction:\n"
    ),
    # dolphin-phi, llava
    "4e171bfb98d66561198156de8610b7bb204f3284468316f9eeeefd290b27fd62": _exchange(
        ("<|im_start|>system\n", ""),
        ("<|im_end|>\n<|im_start|>user\n", ""),
        ("<|im_end|>\n<|im_start|>assistant\n", ""),
        no_system="<|im_start|>system\n",
        no_prompt="<|im_end|>\n<|im_start|>user\n",
    ),
    # falcon2
    "dd8bfe1a8c19e1c567a4e66d797d19256c6a15b44d77163986789f0ab56d29a5": _exchange(
        ("\n\nSystem:\n", ""), ("\n\n\nUser:\n", ""), ("\n\n\nFalcon:\n", "\n"), no_prompt="\n"
    ),
    # gemma
    "f1834625f5f189b77c8f7bb0dadb59bb21c7eabb9ae508c346f91492f649e32d": _exchange(
        ("<start_of_turn>user\n", " "),
        ("", ""),
        ("<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n"),
        no_system="<start_of_turn>user\n",
    ),
    # glm4
    "90fbb619d4eb5c0a9b6841f82f035b22e79ec67ebac01afdbc59c5747a6d4d6f": _exchange(
        ("[gMASK]<sop><|system|>\n", ""), ("<|user|>\n", ""), ("<|assistant|>\n", ""), no_system="[gMASK]<sop>"
    ),
    # llama-pro
    "ae867b44efb7387d16be8b5180cab86e64df73359afbbf142da77500a0ff6e31": _exchange(
        ("<|system|>\n", ""),
        ("\n<|user|>\n", ""),
        ("\n<|assistant|>\n", ""),
        no_system="<|system|>\n",
        no_prompt="\n<|user|>\n",
    ),
    # llama2
    "b34ec2721b5e9147bb6e0ebe9a5192ab6c800f230e79b82a825d1dd9988283ac": _exchange(
        ("[INST] <<SYS>>", ""),
        ("<</SYS>>\n\n", ""),
        (" [/INST]\n", ""),
        no_system="[INST] <<SYS>>",
        no_prompt="<</SYS>>\n\n",
    ),
    # llama3
    "da913644e6d6959d930f1e2eb55d77ace92e350de177cda1597acfb66fd0edbe": _exchange(
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    # llava
    "495be270608fd148f3b5d6ce2dbb040e4a3946e86d0f75cebf5ba0912ebdcca9": _exchange(
        ("[INST] ", ""), (" ", ""), (" [/INST]", ""), no_system="[INST]", no_prompt=" "
    ),
    # llava-phi3, phi3.5
    "7bad4a5b69c145098bd9072323d6cf4bcc92136a8677d3e4dd74e19a8fee12c4": _exchange(
        ("<|system|>\n", "<|end|>\n"), ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n")
    ),
    # mistral
    "69a30d4846fd29d2e321f54e33b8db21044fb75f1ac2ee0de459ab590aeff8fb": _exchange(
        ("[INST] ", ""), (" ", ""), (" [/INST]\n", ""), no_system="[INST] ", no_prompt=" "
    ),
    # mixtral
    "c69ecb1bc0b757207ddfc3c9fbdb8474a501f30cab4fe78fb6c9973379aac872": _exchange(
        ("[INST] ", ""), (" ", ""), (" [/INST] ", "\n"), no_system="[INST]", no_prompt=" "
    ),
    # openchat
    "8351c3068999af2c2cecd9e760c6ee8f168542f4fda45325cf1dd27d7bb50e65": _exchange(
        ("", ""),
        ("<|end_of_turn|>GPT4 Correct User: ", ""),
        ("<|end_of_turn|>GPT4 Correct Assistant:", ""),
        no_prompt="<|end_of_turn|>GPT4 Correct User: ",
    ),
    # phi3
    "d167ea4325fae7001c35d3695d5efb1032ce0c7a80737737e43ea374ea2b87be": _exchange(
        ("<|system|>\n", "<|end|>\n"), ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>")
    ),
    # qwen
    "d12fbacfb3dd18bff86bdff597a97bc90529b09dd466377af6b440c2efa3eb63": _exchange(
        ("system\n", "<|im_end|><|im_start|>"),
        ("user\n", ""),
        ("<|im_end|>\n<|im_start|>assistant\n", ""),
        before="<|im_start|>",
        no_prompt="user\n",
    ),
    # tinyllama
    "ca41ec6451ab672727388e5036cd0f1cca5553525b2038d70eb592e1d2d8c684": _exchange(
        ("<|system|>\n", ""),
        ("</s>\n<|user|>\n", ""),
        ("</s>\n<|assistant|>\n", ""),
        no_system="<|system|>\n",
        no_prompt="</s>\n<|user|>\n",
    ),
    # Of documentation.
    # chatml without the answer, of Ollama's documentation
    "f56442d498962948acae2423e2b36807bfb1833dc8a6e860fb8cfb5e9713246e": _exchange(
        ("<|im_start|>system\n", "<|im_end|>\n"),
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", ""),
    ),
    # vicuna, of Ollama's documentation and Open WebUI
    "c91fb3aef9f2501d428261c7aeaa3fe4b6a2f799f5e7c32664551182c1065ec6": _exchange(
        ("", ""), ("\nUSER: ", ""), ("\nASSISTANT: ", ""), no_prompt="\nUSER: "
    ),
    # Of earlier versions of Ollama, under Ollama's own names.
    # alfred
    "57db53c7eeb60cd6ab4a7b850840ba433ce7a8446c9e1b643a18093d8f51c1da": _exchange(
        ("<start_system>", "<end_message>"), ("<start_user>", "<end_message>"), ("<start_assistant>", "<end_message>")
    ),
    # alpaca
    "41a1f9142ea30edab1c82711854fbf48706a037733d1e761ac4fded253242501": _exchange(
        ("", "\n\n"), ("### Instruction:\n", "\n\n"), ("### Response:\n", "")
    ),
    # alpaca
    "7dfc8b5fd165eaf58f85a24c75f54d1b30374ce6d9f28c4a3eb985eff41e2175": _exchange(
        ("", "\n\n"), ("### Instruction:\n", "\n\n"), ("### Response:\n", "\n\n")
    ),
    # chatml
    "9d186f453eaedf4e3846a8c27527f5d2aeef11d39317a14613c54ca6a72fc0e9": _exchange(
        ("<|im_start|>system\n", "<|im_end|>\n"),
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", "<|im_end|>"),
    ),
    # chatqa
    "2113fcb75ba0dc5a9698729c6ef385146ac6d7f660a7f443fbf3cd0c0887b723": _exchange(
        ("System: ", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", "\n\n")
    ),
    # chatqa
    "5e7a88dc973783f8e9ac55702bfbb6a0f4c6f6296a6176d9c8ebced14ee79e83": _exchange(
        ("System: ", "\n\n"), ("User: ", "\n\n"), ("Assistant: <|begin_of_text|>", "")
    ),
    # codellama-70b-instruct
    "7ea1ae5ded0b416fdce1a7b13db6a7dd942f458514df6c1f1d9f4a8d636c351c": _exchange(
        (" Source: system\n\n ", " <step>"),
        (" Source: user\n\n ", ""),
        (" <step> Source: assistant\nDestination: user\n\n ", "<step>"),
        no_prompt=" Source: user\n\n ",
    ),
    # falcon-instruct
    "5ab2fcbbaec5f51a40d5e229d79441c3be8dcf8bcd8fd810ed5a4aea4330fff0": _exchange(
        ("", "\n"), ("User: ", "\n"), ("Assistant: ", "")
    ),
    # falcon-instruct
    "b960a0137383332f8ce3b7150df3774c1460d9e9400a2d149097c1528b7140a3": _exchange(
        ("System: ", "\n"), ("User:\n", "\n"), ("Falcon:\n", "\n")
    ),
    # gemma-instruct
    "21e01157af2357a23db02b8d1e63d88d776891304b2b60e63f39f923ec810e72": _exchange(
        ("<start_of_turn>user\n", " "),
        ("", ""),
        ("<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
        no_system="<start_of_turn>user\n",
    ),
    # gemma-instruct
    "c03fb82f4b71bd41fc59b63eefe7ca56ecf102bb5abf2b0c7006f8976267fd9f": _exchange(
        ("<start_of_turn>user\n", ""),
        ("\n", ""),
        ("<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n"),
        no_system="<start_of_turn>user",
        no_prompt="\n",
    ),
    # granite-instruct
    "13d4ce899d303ed0aec4cc7aff4d7068248d0e0d142f9047c6681160138a3fb2": _exchange(
        ("\nSystem:\n", "\n\n"), ("Question:\n", "\n\n"), ("Answer:\n", "")
    ),
    # granite-instruct
    "c40155aac9ff67d7ee5c65dcdae34927659709cbdddcd50b29d207aa52052f21": _exchange(
        ("System:\n", "\n\n"), ("Question:\n", "\n\n"), ("Answer:\n", "\n\n")
    ),
    # llama2-chat
    "16cf56d4d71f50e53675d72df804e3bcdb78b0100804392ff033b8ca9feb654e": _exchange(
        ("[INST] <<SYS>>", ""),
        ("<</SYS>>\n\n", ""),
        (" [/INST] ", ""),
        no_system="[INST] <<SYS>>",
        no_prompt="<</SYS>>\n\n",
    ),
    # llama2-chat
    "584e0ec089c5ef8cec321c412d5dfb038116d2e3f209383b17342d39ffb81adc": _exchange(
        ("[INST] <<SYS>>\n", "\n"),
        ("<</SYS>>\n\n", ""),
        (" [/INST] ", "</s><s>"),
        no_system="[INST] <<SYS>>",
        no_prompt="<</SYS>>\n\n",
    ),
    # magicoder
    "bac846ebbcc673da8d3d7c3794cc178dae42e0df3330d9b96e1104087ebb5409": _exchange(
        ("", "\n\n"), ("@@ Instruction\n", "\n\n"), ("@@ Response\n", "")
    ),
    # magicoder
    "cf94836803aff3cab6f9bd975b7afcc8fce05a6fe4a9d6cec380a766586c6f57": _exchange(
        ("", "\n\n"), ("@@ Instruction\n", "\n\n"), ("@@ Response\n", "\n\n")
    ),
    # mistral-instruct
    "b57921951d554ca6a5a792fa63da898fc3110c856984c6d76fd2967b8762988b": _exchange(
        ("[INST] ", "\n\n"), ("", ""), ("[/INST] ", "</s>"), no_system="[INST] "
    ),
    # openchat
    "8151b61ec888f0b15b829569291ee5f4ccaeb0cf370d674c18b72650bdcf8d15": _exchange(
        ("", ""),
        ("<|end_of_turn|>GPT4 Correct User: ", ""),
        ("<|end_of_turn|>GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        no_prompt="<|end_of_turn|>GPT4 Correct User: ",
    ),
    # openchat
    "bdcca68d903c4a1ada621b1633e4b5471c15cf62dd0a4b9c0115cfc8605c1131": _exchange(
        ("GPT4 Correct System: ", "<|end_of_turn|>"),
        ("GPT4 Correct User: ", ""),
        ("<|end_of_turn|>GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        no_prompt="GPT4 Correct User: ",
    ),
    # solar-instruct
    "89db9bc7464fc100fb263b53ec876d37cf26e5226ae04c8d9c43dfc7818f8e72": _exchange(
        ("### System:\n", "\n\n"), ("### User:\n", "\n\n"), ("### Assistant:\n", "</s>\n\n")
    ),
    # solar-instruct
    "c0345da5b225c8df308041532d107daa8ff3ad432e564fbd19d72ec86e9aece2": _exchange(
        ("### System:\n", "\n\n"), ("### User:\n", "\n\n"), ("### Assistant:\n", "")
    ),
    # starcoder2-instruct
    "463e0bed0651a868fb4278c26683f96ffd3a9534d1a11a6cdb664f11c7f92c39": _exchange(
        ("", "\n\n"), ("### Instruction\n", "\n\n"), ("### Response\n", "<|endoftext|>\n\n")
    ),
    # starcoder2-instruct
    "fd04afb903e33d0d6256061ca0eb180737d722595c4473d591fa9da704fe3d00": _exchange(
        ("", "\n\n"), ("### Instruction\n", "\n\n\n"), ("### Response\n", "<|endoftext|>\n\n")
    ),
    # vicuna
    "08ada3a0e693124d0899d6886cba6ab3ec2df2d19d93a84ab0527b58c7b99a0e": _exchange(
        ("", "\n\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n")
    ),
    # vicuna
    "442a07e547b2dc2be93e0f9c3a0b2911ed0fa50f34b97806e80369a5c8d57477": _exchange(
        ("", "\n"), ("USER: ", "\n"), ("ASSISTANT: ", "")
    ),
    # zephyr
    "56e815c45c8c40cfba76b6621823d55dc0c8813393dce68e510b7b14a94bedaa": _exchange(
        ("<|system|>\n", "</s>\n"), ("<|user|>\n", "</s>\n"), ("<|assistant|>\n", "</s>\n")
    ),
    # zephyr
    "ba5403bedab1cfc78b702d3f7c10eea739f18463a5a97f613dadc49115bac6ea": _exchange(
        ("<|system|>\n", "</s>\n"), ("<|user|>\n", "</s>\n"), ("<|assistant|>\n", "</s>")
    ),
}
