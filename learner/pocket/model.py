"""`pocket`: a Qwen3-architecture model small enough to train on one CPU thread, and its tokenizer.

    train_tokenizer   texts -> byte-level BPE in which every common word, digit and board cell is one token
    create_pocket     tokenizer and sizes -> a model folder with random weights, as any Hugging Face model has one

The folder holds `config.json`, `generation_config.json`, `model.safetensors` (fp32, tied embeddings), `tokenizer.json`,
`tokenizer_config.json` and `chat_template.jinja`: transformers loads it, and so do `tokenizers` and `jinja2` alone.

Text is cut at white space, punctuation and single digits before any merge, a word together with the space before it;
a letter with a digit, as boards name their cells, stays whole, with what the cell shows: "b3=1".
The tags that frame a response are tokens of their own and not special, so that decoding keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from lamer.common.errors import BadInput
from lamer.common.folders import whole_folder
from lamer.common.settings import PocketSettings

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
TAGS = ("<action>", "</action>", "<remark>", "</remark>")
SMALLEST_VOCABULARY = 256 + 2 + len(TAGS)

_PIECES = r" ?\p{Ll}\p{N}(?:=[^\s\p{L}])?| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"

_TAG = re.compile("|".join(TAGS))

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}{{ '>' + message['content'] + '<eos>\\n' }}
{%- else -%}{{ message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '>' }}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens, which encodes any text and decodes it to itself.

    Without texts it has the 256 bytes, the tags and the two special tokens, and no merges.

    Raises:
        BadInput: `vocabulary` has no room for the bytes and tags.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise BadInput(f"model.pocket.vocabulary must be at least {SMALLEST_VOCABULARY}, got {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=[PAD_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _TAG.split(text)), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, context: int, folder: Path) -> None:
    """Write the tokenizer's three files: `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)


def pocket_config(sizes: PocketSettings, tokenizer: Tokenizer) -> Qwen3Config:
    """The architecture: Qwen3 of the given sizes over the tokenizer's vocabulary.

    Raises:
        BadInput: the attention heads can't be divided among the key-value heads, or a head's size is odd.
    """
    if sizes.heads % sizes.kv_heads:
        raise BadInput(f"model.pocket.heads ({sizes.heads}) must be a multiple of kv_heads ({sizes.kv_heads})")
    if sizes.head_dim % 2:
        raise BadInput(f"model.pocket.head_dim must be even (rotary positions), got {sizes.head_dim}")
    return Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(EOS_TOKEN),
        pad_token_id=tokenizer.token_to_id(PAD_TOKEN),
        dtype=torch.float32,
    )


def create_pocket(sizes: PocketSettings, tokenizer: Tokenizer, seed: int, folder: Path) -> int:
    """Create the model folder `folder`, whole or not at all; the same arguments give the same files.

    Returns:
        The number of parameters.
    """
    config = pocket_config(sizes, tokenizer)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=True
    )
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        save_tokenizer(tokenizer, sizes.context, temporary)
    return sum(parameter.numel() for parameter in model.parameters())
