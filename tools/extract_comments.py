"""Keeps the comments of the contract for run time: descriptors carry none there, and the OpenAPI document needs them.

Writes one JSON object, full name to text. Stubs and their types are the business of `generate.py`, which calls this.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
# The numbers of the fields of FileDescriptorProto and DescriptorProto that a SourceCodeInfo path is made of.
MESSAGES, ENUMS, SERVICES = (FileDescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in (
    "message_type", "enum_type", "service",
))  # fmt: skip
NESTED_MESSAGES, NESTED_ENUMS = (DescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in (
    "nested_type", "enum_type",
))  # fmt: skip
# Fields of a message, values of an enum and methods of a service all have the number 2.
MEMBERS = EnumDescriptorProto.DESCRIPTOR.fields_by_name["value"].number


def read_contract() -> FileDescriptorSet:
    """Compiles proto/ with its comments."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "contract.binpb")
        buf = Path(sys.executable).with_name("buf")
        command = [str(buf), "build", "proto", "--as-file-descriptor-set", "--output", str(image)]
        subprocess.run(command, cwd=ROOT, check=True)
        return FileDescriptorSet.FromString(image.read_bytes())


def comments_of(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Yields the full name and comment of every commented service, method, message, field, enum and value."""
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for path, name in named_elements(file):
        if comments.get(path):
            yield name, tidied(comments[path])


def named_elements(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields the path and full name of every element."""
    yield from _messages((MESSAGES,), file.package, file.message_type)
    yield from _with_members((ENUMS,), file.package, [(enum.name, enum.value) for enum in file.enum_type])
    yield from _with_members((SERVICES,), file.package, [(service.name, service.method) for service in file.service])


def _messages(
    path: tuple[int, ...], scope: str, messages: Sequence[DescriptorProto]
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield from _with_members(path, scope, [(message.name, message.field) for message in messages])
    for index, message in enumerate(messages):
        inner, name = (*path, index), f"{scope}.{message.name}"
        yield from _messages((*inner, NESTED_MESSAGES), name, message.nested_type)
        yield from _with_members((*inner, NESTED_ENUMS), name, [(enum.name, enum.value) for enum in message.enum_type])


def _with_members(
    path: tuple[int, ...], scope: str, elements: Sequence[tuple[str, Sequence[Any]]]
) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, (name, members) in enumerate(elements):
        yield (*path, index), f"{scope}.{name}"
        for place, member in enumerate(members):
            yield (*path, index, MEMBERS, place), f"{scope}.{name}.{member.name}"


def tidied(comment: str) -> str:
    """Joins the lines of each paragraph."""
    paragraphs = comment.strip().split("\n\n")
    return "\n\n".join(" ".join(line.strip() for line in paragraph.splitlines()) for paragraph in paragraphs)


def write_comments(target: Path) -> None:
    """Writes the comments of our own files, sorted by name so that a change shows as itself."""
    files = [file for file in read_contract().file if file.package.startswith("messmail.")]
    comments = dict(sorted(pair for file in files for pair in comments_of(file)))
    target.write_text(json.dumps(comments, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_comments(ROOT / "generated" / "messmail" / "comments.json")
