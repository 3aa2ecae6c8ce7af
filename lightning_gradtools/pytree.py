"""The leaves of nested containers; the only place that names torch's pytrees, which are private there.

Not optree or another of that kind: what users register with torch (HuggingFace's outputs are) must be known here too.
"""

from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

__all__ = ["tree_flatten_with_path", "tree_leaves", "tree_map"]
