"""Call Kaggle's own client, which the user installs, and explain its errors; push an upload folder by it."""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facefold.utils.errors import InputError
from facefold.utils.files import read_json

Hints = Sequence[tuple[Sequence[str], str]]  # parts of answers in small letters, and what is wrong then
_TOKEN: Hints = (
    (
        ("could not find kaggle.json", "you must authenticate", "missing username", "missing key"),
        "there is no token. Create one at https://www.kaggle.com/settings (API, Create New Token), and put the file "
        "where the client looks for it, ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY",
    ),
    (("401", "unauthorized"), "the token is not valid any more. Create a new one at https://www.kaggle.com/settings"),
)
_NETWORK: Hints = (
    (
        ("name resolution", "failed to establish a new connection", "proxyerror"),
        "Kaggle could not be reached. Check the network",
    ),
)
_MISSING = ("403", "404", "forbidden", "not found")
_READY_SECONDS, _POLL_SECONDS = 1800, 10  # the most to wait for a data set, and between two questions


@dataclass(frozen=True)
class Answer:
    """The client's exit code and the lines of its output, without progress bars."""

    code: int
    lines: list[str]

    @property
    def text(self) -> str:
        """The output in small letters, without the lines of a traceback."""
        return "\n".join(line for line in self.lines if not line.startswith('File "')).lower()

    def has(self, *marks: str) -> bool:
        """Return whether one of `marks`, in small letters, is in the output as words of its own."""
        return any(re.search(rf"\b{re.escape(mark)}\b", self.text) for mark in marks)

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.lines[-8:]) or f"  nothing, and exited with {self.code}"
        return f"Kaggle's client answered:\n{lines}"


def call_client(arguments: Sequence[str], otherwise: str) -> Answer:
    """Run the client. Raise `InputError` if it is not installed or cannot be started; otherwise: what to do then."""
    install = f"install Kaggle's client with `pip install kaggle`, or {otherwise}"
    client = shutil.which("kaggle")
    if client is None:
        raise InputError(f"there is no `kaggle` on the PATH: {install}")
    try:
        done = subprocess.run(
            [client, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",  # an answer that is not UTF-8 comes after the upload as well
        )
    except OSError as error:
        raise InputError(f"{client} cannot be started ({error.strerror}): {install}") from None
    lines = [line.strip() for line in re.split(r"[\r\n]+", done.stdout)]
    return Answer(done.returncode, [line for line in lines if line and not re.search(r"\d+%\|", line)])


def find_hint(answer: Answer, hints: Hints = ()) -> str:
    """Return what an error means, by `hints` or what all commands have in common; empty for an unknown one."""
    return next((hint for marks, hint in (*_TOKEN, *hints, *_NETWORK) if answer.has(*marks)), "")


def push_upload(out: Path) -> list[str]:
    """Upload the data set of an upload folder, wait until Kaggle has unpacked it, and run the notebook.

    Return the client's lines. Raise `InputError` with the client's answer if it fails, and if the notebook was started
    without one of its inputs, which the client reports as a success.
    """
    dataset, kernel = out / "dataset", out / "kernel"
    metadata = read_json(kernel / "kernel-metadata.json")
    [reference], by_hand = metadata["dataset_sources"], f"upload {out} in the browser"
    known = call_client(["datasets", "status", reference], by_hand)
    if known.code and not known.has(*_MISSING):
        raise _not_pushed("the data set", known)
    action = ["create"] if known.code else ["version", "-m", "pack.py"]
    uploaded = call_client(["datasets", *action, "-p", str(dataset), "--dir-mode", "zip"], by_hand)
    if uploaded.code or "is being created" not in uploaded.text:  # it reports errors with exit code 0, too
        raise _not_pushed("the data set", uploaded)
    _wait_until_ready(reference, by_hand)
    pushed = call_client(["kernels", "push", "-p", str(kernel)], by_hand)
    if pushed.code or "successfully pushed" not in pushed.text:
        raise _not_pushed("the notebook", pushed)
    first = re.search(r"kernel version 1 successfully", pushed.text)
    refused = [kind for kind in ("dataset", "competition", "kernel") if f"not valid {kind} sources" in pushed.text]
    if refused and not (first and refused == ["kernel"]):  # before its first version it has no output of its own
        raise InputError(
            f"the notebook runs without one of its inputs ({', '.join(refused)} sources): stop it on its page. The "
            "rules of the competition must be accepted, and the last version of the notebook must have ended without "
            f"an error.\n{pushed}"
        )
    return [uploaded.lines[-1], pushed.lines[-1]]


def _wait_until_ready(reference: str, otherwise: str) -> None:
    """Wait until the data set is unpacked: a notebook that starts before gets the former version, or none."""
    for _ in range(_READY_SECONDS // _POLL_SECONDS):
        time.sleep(_POLL_SECONDS)  # at first as well: for a moment the former version still is the data set
        status = call_client(["datasets", "status", reference], otherwise)
        if status.has("ready"):
            return
        if status.code and not status.has(*_MISSING):
            hint = find_hint(status)
            raise InputError(
                f"the data set {reference} was uploaded, and whether it is ready is not known"
                f"{f': {hint}' if hint else ''}. Look at its page; when it is, run `kaggle kernels push`. {status}"
            )
    raise InputError(
        f"the data set {reference} is not ready after {_READY_SECONDS // 60} minutes: look at its page; when it is, "
        f"run `kaggle kernels push`. {status}"
    )


def _not_pushed(what: str, answer: Answer) -> InputError:
    hint = find_hint(answer)
    return InputError(f"{what} was not uploaded{f': {hint}' if hint else ''}.\n{answer}")
