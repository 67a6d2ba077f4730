"""Products of matrices, by the faster of torch's two libraries.

oneDNN wants `weight` dense (contiguous, or the transpose of a contiguous matrix): it copies slowly what is not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_FEW_ROWS = 6  # below it MKL is as fast
_HAS_ONEDNN = bool(torch._C._has_mkldnn)


def matmul_transposed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Computes x [N, K] @ weight [M, K]^T + bias [M] -> [N, M].

    Float32 goes through oneDNN, whose kernels are generated for the processor at hand; MKL, torch's own choice, leaves
    AVX-512 unused on AMD processors, where this is 2.3 times as fast for 32 rows and more.
    """
    if x.dtype is torch.float32 and len(x) >= _FEW_ROWS and _HAS_ONEDNN:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)
