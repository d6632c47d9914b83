"""From the models of a table to its keys, with their values in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the experiment file.

    `name` is dotted, with `[]` after the name of a list of tables and capitals for a name that the
    user chooses: "society.agents", "arms[].like", "prices.MODEL.input_usd". `default` is a value in
    TOML, "required", or "" where there is none. `owners` are the schemes of model addresses
    ("local:") that a key of `[provider]` is for, and the tasks ("gsm8k") that have an option of
    `[task]`; other keys have none.
    """

    name: str
    values: str
    default: str
    description: str
    owners: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The table that the key is in; "" at the top of the file."""
        return self.name.rpartition(".")[0]


def walk_table(schema: JsonSchema, table: JsonSchema, prefix: str) -> Iterator[Key]:
    """The keys of a table of the file, which `table` describes, and of the tables in it.

    `prefix` is the dotted name of the table with a dot behind it, `schema` holds the definitions.
    """
    required = table.get("required", ())
    for name, field in table["properties"].items():
        inner, mark = _find_table(schema, field)
        # A table has a row of its own if it can be something else too, or is described.
        if inner is None or "description" in field:
            default = "required" if name in required else _write_default(field.get("default"))
            description = re.sub(r"\s+", " ", field.get("description", ""))
            yield Key(prefix + name, _describe(schema, field), default, description)
        # The keys of a list of tables are those of each of its tables.
        if inner is not None:
            yield from walk_table(schema, inner, f"{prefix}{name}{mark}.")


def _find_table(schema: JsonSchema, field: JsonSchema) -> tuple[JsonSchema | None, str]:
    """The table that the value of a key is, if it is one, and what marks it in a dotted name."""
    if "$ref" in field:
        found: JsonSchema = schema["$defs"][field["$ref"].rpartition("/")[2]]
        return (found, "") if "properties" in found else (None, "")
    for choice in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        table, mark = _find_table(schema, choice)
        if table is not None:
            return table, mark
    if field.get("type") == "array" and "items" in field:
        table, _ = _find_table(schema, field["items"])
        return table, "[]"
    # A table whose keys the user chooses, such as the names of models.
    if isinstance(field.get("additionalProperties"), dict):
        table, _ = _find_table(schema, field["additionalProperties"])
        return table, ".MODEL"
    return None, ""


def _write_default(value: object) -> str:
    # TOML has no null: such a key has no default that could be written.
    return "" if value is None or isinstance(value, dict) else json.dumps(value)


def _describe(schema: JsonSchema, field: JsonSchema) -> str:
    """The values of a key, in words: "whole number ≥ 1", "`lora` or `full`"."""
    # A key that may be unset is "anyOf" its values and null, which TOML does not have.
    if choices := (field.get("anyOf") or field.get("oneOf")):
        words = [_describe(schema, each) for each in choices if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "$ref" in field:
        return _describe(schema, schema["$defs"][field["$ref"].rpartition("/")[2]])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    return _describe_type(schema, field)


def _describe_type(schema: JsonSchema, field: JsonSchema) -> str:
    match field.get("type"):
        case "integer":
            return "whole number" + _describe_bounds(field)
        case "number":
            return "number" + _describe_bounds(field)
        case "boolean":
            return "`true` or `false`"
        case "array":
            return _describe_list(schema, field)
        case "object":
            return "table"
        case _:
            return str(field.get("format", "text"))


def _describe_list(schema: JsonSchema, field: JsonSchema) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: " + ", ".join(
            _describe(schema, each) for each in field["prefixItems"]
        )
    items = _describe(schema, field["items"]) if field.get("items") else "values"
    # "text" needs no plural.
    return f"list of {items}" + ("s" if items in ("table", "whole number") else "")


_UNBOUNDED = 2**31 - 1


def _describe_bounds(field: JsonSchema) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, below = field.get("maximum"), field.get("exclusiveMaximum")
    bounds = [
        f"≥ {low:g}" if low is not None else "",
        f"> {above:g}" if above is not None else "",
        f"≤ {high:g}" if high is not None and high < _UNBOUNDED else "",
        f"< {below:g}" if below is not None and below < _UNBOUNDED else "",
    ]
    return "".join(f" {bound}" for bound in bounds if bound)
