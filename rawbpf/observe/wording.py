"""How reports for people count things and show text that comes from outside."""

import re

# Everything that str.isprintable() rejects but newlines and tabs: control characters, also those of C1, marks that
# change the direction of text, and bytes that are no UTF-8, which Python keeps as lone surrogates.
_SUSPICIOUS = re.compile(r"[^\n\t\x20-\x7e]")


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "value"), counted(2, "value"), counted(0, "queue or stack", "queues and stacks")
    ('1 value', '2 values', '0 queues and stacks')
    """
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def escaped(text: str) -> str:
    r"""The text with everything in it that a terminal might obey written as \x1b or \u202e; newlines and tabs stay.

    >>> print(escaped("a\x1b[2Jb\udcff"))
    a\x1b[2Jb\xff
    """
    return _SUSPICIOUS.sub(_escape, text)


def _escape(match: "re.Match[str]") -> str:
    character = match[0]
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()
