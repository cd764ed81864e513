"""Turn public text into a tokenizer and three token files (train, valid, test), split by document.

Input: a folder as `moex.evals.text` describes it (complete documents are held out). Output:
`tokenizer.json`, `{split}.bin` (uint16 token ids; every document starts with the end-of-text token)
and `meta.json` (bytes and tokens of every split and source).

    python experiments/bundled_model/training/prepare.py --text TEXT_DIR --out WORK_DIR
"""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.harness import arguments
from moex.evals.text import documents, pieces

END = "<|endoftext|>"


def train_tokenizer(folder: Path, vocab: int) -> Tokenizer:
    """Fit a byte-level BPE on the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text[:400_000] for _, split, text in documents(folder) if split == "train")
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Write the tokenizer, the token files and what they hold."""
    args = arguments(__doc__, tiny={"vocab": 300}, text=Path, out=Path, vocab=3072)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(args.text, args.vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    meta: dict[str, dict[str, int]] = {}
    for source, split, text in documents(args.text):
        ids = [end]
        for encoding in tokenizer.encode_batch(pieces(text)):
            ids.extend(encoding.ids)
        parts[split].append(np.asarray(ids, dtype=np.uint16))
        count = meta.setdefault(f"{split}/{source}", {"documents": 0, "bytes": 0, "tokens": 0})
        count["documents"] += 1
        count["bytes"] += len(text.encode())
        count["tokens"] += len(ids)
    for split, arrays in parts.items():
        np.concatenate(arrays).tofile(args.out / f"{split}.bin")
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(json.dumps(meta, indent=1))


if __name__ == "__main__":
    main()
