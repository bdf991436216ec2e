"""Frozen dataclasses whose instances JAX can map over, and never takes for one another.

`jax.tree_util.register_dataclass`, which `flax.struct.dataclass` calls, makes nodes that compare equal whatever their
class, if they have as many fields: `jax.tree.structure(VE()) == jax.tree.structure(VP())`. Their hashes differ, which
mostly hides it, but now and then a cache of compiled programs then answers with that of another class (jax 0.10.2 and
0.12.0). Nodes that are registered with functions compare by class.
"""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax
from flax import struct

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field, dataclasses.field))
def dataclass(cls: type[_Class]) -> type[_Class]:
    """Makes of `cls` a frozen dataclass, and a pytree of its fields but for those of `struct.field(pytree_node=False)`.

    `replace(**changes)` returns another. Rebuilt by JAX it goes through `__init__`, with whatever the leaves are then.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    nodes = {field.name: field.metadata.get("pytree_node", True) for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    data, static = ([name for name in nodes if nodes[name] is kind] for kind in (True, False))
    values = lambda names, x: tuple(getattr(x, name) for name in names)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)
    jax.tree_util.register_pytree_with_keys(
        made,
        lambda x: (tuple(zip(keys, values(data, x), strict=True)), values(static, x)),
        lambda aux, leaves: made(**dict(zip([*static, *data], [*aux, *leaves], strict=True))),
        lambda x: (values(data, x), values(static, x)),
    )
    made.replace = dataclasses.replace  # type: ignore[attr-defined]
    return made
