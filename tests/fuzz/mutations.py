"""Strategies for wrong inputs: mutations of valid ones, and inputs that were never valid."""

import json

from hypothesis import strategies as st

DEEP = ("[" * 300 + "]" * 300, "[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 20_000 + "1" + "}" * 20_000)
ODD_VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "-0.0", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity"),
    *(str(2**31), str(2**63), str(2**64), str(2**60), str(-(2**63) - 1), "9" * 400, "9" * 5000, "01", "1_000"),
    *('""', '"5"', '"NaN"', '"1e999"', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\u202e\x1b[2J"', '"[/red]"'),
    *('"../../etc/passwd"', '"\\n"', f'"{"x" * 100_000}"', '"' + "\\ud83d\\ude00" * 3000 + '"', "{}", "[]", "[[]]"),
    *("[null]", "[0,0,0,0]", '[""]', '{"":null}', '{"__proto__":1}', *DEEP),
)
"""JSON, and what some parsers take for it."""
ODD_KEYS = ("", "__class__", "id", "type", "\ud800", "x" * 10_000, "\x00", "protocol", "args")
ODD_BYTES = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"[" * 5000,
    b"]",
    b",",
    b"\n",
    b"\r\n",
)
ODD_NUMBERS = (0, 1, 2, 2**31 - 1, 2**32, 2**60, 2**63, 2**64 - 1, 10**8, 10**8 + 1)


class Members(list):
    """An object's keys and values as pairs, so that a key may occur twice."""


def _tree(value):
    if isinstance(value, dict):
        return Members([key, _tree(item)] for key, item in value.items())
    return [_tree(item) for item in value] if isinstance(value, list) else json.dumps(value)


def _text(tree):
    if isinstance(tree, Members):
        return "{" + ",".join(f"{json.dumps(key)}:{_text(item)}" for key, item in tree) + "}"
    return "[" + ",".join(map(_text, tree)) + "]" if isinstance(tree, list) else tree


def _places(tree, found):
    """Return every list that contains a value, with the value's index."""
    for place, item in enumerate(tree):
        found.append((tree, place))
        value = item[1] if isinstance(tree, Members) else item
        if isinstance(value, list):
            _places(value, found)
    return found


def _put(holder, place, value):
    if isinstance(holder, Members):
        holder[place] = [holder[place][0], value]
    else:
        holder[place] = value


def _nudged(draw, tree):
    """Return a value of the same type, if that is a number or text, which a valid input may have."""
    if isinstance(tree, list) or len(tree) > 1000:
        return tree
    try:
        value = json.loads(tree)
    except (ValueError, RecursionError):
        return tree
    if isinstance(value, str):
        return json.dumps(draw(st.sampled_from((value + " ", value[:-1], value.upper(), value * 2))))
    if isinstance(value, (list, dict)):
        return tree
    if isinstance(value, bool) or value is None:
        return draw(st.sampled_from(("true", "false", "null")))
    return draw(st.sampled_from((f"{tree}.0", f"{tree}0", f"-{tree}", json.dumps(value + 1), json.dumps(value // 2))))


@st.composite
def mutated_json(draw, valid, odd_values=ODD_VALUES):
    """Draw the bytes of one of these JSON values after a few changes of members, items and sometimes bytes."""
    whole = [_tree(draw(st.sampled_from(valid)))]
    for _ in range(draw(st.integers(1, 3))):
        places = _places(whole, [])
        if not places:
            break
        holder, place = draw(st.sampled_from(places))
        match draw(st.sampled_from(("replace", "nudge", "nudge", "delete", "twice", "rename", "swap"))):
            case "replace":
                _put(holder, place, draw(st.sampled_from(odd_values)))
            case "nudge":
                _put(holder, place, _nudged(draw, holder[place][1] if isinstance(holder, Members) else holder[place]))
            case "delete":
                del holder[place]
            case "twice":
                holder.append(holder[place])
                if draw(st.booleans()):
                    _put(holder, len(holder) - 1, draw(st.sampled_from(odd_values)))
            case "rename" if isinstance(holder, Members):
                holder[place] = [draw(st.sampled_from(ODD_KEYS)), holder[place][1]]
            case _:
                other, there = draw(st.sampled_from(places))
                if there < len(other):
                    value = other[there][1] if isinstance(other, Members) else other[there]
                    _put(holder, place, _text(value) if isinstance(value, list) else value)
    data = _text(whole)[1:-1].encode("utf-8", "surrogatepass")
    return draw(mutated_bytes((data,))) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def mutated_bytes(draw, valid, most=3, pieces=ODD_BYTES):
    """Draw one of these after a few changes of bytes: flipped, removed, inserted, doubled, truncated."""
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((1, 4, 16, 200))))
        match draw(st.sampled_from(("flip", "flip", "odd", "number", "delete", "twice", "truncate"))):
            case "flip":
                changed = bytes(byte ^ draw(st.integers(1, 255)) for byte in data[at : at + 1])
                data = data[:at] + changed + data[at + 1 :]
            case "odd":
                data = data[:at] + draw(st.sampled_from(pieces)) + data[at:]
            case "number":
                number = draw(st.sampled_from(ODD_NUMBERS))
                size = draw(st.sampled_from((2, 4, 8)))
                data = data[:at] + (number % 256**size).to_bytes(size, "little") + data[at + size :]
            case "delete":
                data = data[:at] + data[end:]
            case "twice":
                data = data[:end] + data[at:end] + data[end:]
            case "truncate":
                data = data[:at]
    return data


def odd_json(values=ODD_VALUES, keys=ODD_KEYS):
    """Draw the bytes of JSON values of any shape, made of unusual parts."""
    leaves = st.sampled_from(values)
    shapes = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(st.tuples(st.sampled_from(keys) | st.text(max_size=8), inner), max_size=4).map(
                lambda pairs: Members(map(list, pairs))
            )
        ),
        max_leaves=6,
    )
    return shapes.map(lambda tree: _text(tree).encode("utf-8", "surrogatepass"))


def odd_bytes():
    """Draw arbitrary bytes."""
    return st.binary(max_size=200) | st.lists(st.sampled_from(ODD_BYTES), max_size=6).map(b"".join)


def mutated_fields(valid, mutations):
    """Draw a Redis hash in which one or two fields are replaced or missing."""

    @st.composite
    def fields(draw):
        found = dict(valid)
        for name in draw(st.lists(st.sampled_from(sorted(mutations)), min_size=1, max_size=2, unique=True)):
            value = draw(st.none() | mutations[name])
            if value is None:
                found.pop(name, None)
            else:
                found[name] = value
        return found

    return fields()
