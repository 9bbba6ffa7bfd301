"""How long a forward pass will take, from how long the last ones took."""

from __future__ import annotations

# A new pass moves the estimate this far towards itself; a small one less, for its time is mostly
# fixed cost and says little about large ones.
_WEIGHT = 0.3
_LEAST_WEIGHT = 0.02
_LEAST_FACTOR, _MOST_FACTOR = 0.05, 50.0


class PassTime:
    """`factor * (fixed + per_token * tokens)`: two constants measured at load, one factor since.

    Tokens count padding. Before `calibrate` every estimate is 0 seconds. Not locked: one owner.
    """

    def __init__(self):
        self._fixed_seconds = 0.0
        self._seconds_per_token = 0.0
        self._reference_tokens = 1
        self._factor = 1.0

    def calibrate(self, small: tuple[int, float], large: tuple[int, float]) -> None:
        """Two measured passes as (tokens, seconds), the second with more tokens."""
        (few, little), (many, much) = small, large
        per_token = max(0.0, much - little) / max(1, many - few)
        self._fixed_seconds = max(0.0, little - per_token * few)
        self._seconds_per_token = per_token
        self._reference_tokens = many
        self._factor = 1.0

    def seconds(self, tokens: int, passes: int = 1) -> float:
        return self._factor * (passes * self._fixed_seconds + tokens * self._seconds_per_token)

    def observe(self, tokens: int, seconds: float) -> None:
        """A pass over users' pairs took `seconds`."""
        weight = _WEIGHT * min(1.0, max(_LEAST_WEIGHT, tokens / self._reference_tokens))
        self._factor = self._bounded(self._factor + weight * (self._ratio(tokens, seconds) - self._factor))

    def start_again(self, tokens: int, seconds: float) -> None:
        """A probe took `seconds`: what was slow before it no longer counts."""
        self._factor = self._bounded(self._ratio(tokens, seconds))

    def _ratio(self, tokens: int, seconds: float) -> float:
        expected = self._fixed_seconds + tokens * self._seconds_per_token
        return seconds / expected if expected > 0 else 1.0

    def _bounded(self, factor: float) -> float:
        return min(max(factor, _LEAST_FACTOR), _MOST_FACTOR)
