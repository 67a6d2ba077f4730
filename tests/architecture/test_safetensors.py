"""Models are loaded from safetensors files alone: a pickled one can run code."""

from __future__ import annotations

import ast

from tests.architecture.tree import SourceTree


def loads(tree: ast.AST) -> list[tuple[int, bool]]:
    """(line, whether it insists on safetensors) of every call that loads a model."""
    return [
        (node.lineno, any(each.arg == "use_safetensors" and _is_true(each.value) for each in node.keywords))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and "Model" in ast.unparse(node.func.value)
    ]


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_every_model_is_loaded_from_safetensors() -> None:
    found = {f"{path}:{line}": is_safe for path, tree in SourceTree().sources.items() for line, is_safe in loads(tree)}
    assert len(found) >= 3
    assert [place for place, is_safe in found.items() if not is_safe] == []


def test_one_that_is_not_is_noticed() -> None:
    assert loads(ast.parse("AutoModelForCausalLM.from_pretrained(folder, dtype=float32)")) == [(1, False)]
    assert loads(ast.parse("AutoModel.from_pretrained(folder, use_safetensors=True)")) == [(1, True)]
