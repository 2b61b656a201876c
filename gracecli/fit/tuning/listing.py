"""What a fine-tuning would move, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gracecli.errors import UsageError
from gracecli.fit.tuning.strategy import Line, by_role, listing, movements

if TYPE_CHECKING:
    from gracecli.fit.config import FitConfig
    from gracecli.fit.tuning.start import Start


@dataclass(frozen=True)
class Listing:
    """Weights by node, and how many move."""

    strategy: str
    lines: tuple[Line, ...]
    present: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def weights(self) -> int:
        """All trainable weights."""
        return sum(line.weights for line in self.lines)

    @property
    def moving(self) -> int:
        """Numbers that the optimizer moves."""
        return sum(line.moving for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "weights": self.weights, "moving": self.moving}

    def summary(self) -> str:
        """One line: how much of every role moves."""
        parts = [f"{role} {moving:,} of {weights:,}" for role, (moving, weights) in by_role(self.lines).items()]
        return f"strategy {self.strategy} moves {self.moving:,} of {self.weights:,} weights: {', '.join(parts)}"


def list_movements(config: FitConfig, say: Callable[[str], None]) -> Listing:
    """Read the data, prepare the start, and list what would move; writes nothing.

    Raises
    ------
    UsageError
        No model to start from.
    """
    from gracecli.fit.setup import prepare_data
    from gracecli.quiet import import_tensorflow

    if config.tuning.strategy is None:
        raise UsageError("--dry-run lists what fine-tuning moves", "give --from MODEL and --strategy NAME")
    import_tensorflow()
    from gracecli.model.network import Network

    data = prepare_data(config, say)
    assert data.tuning is not None
    return make_listing(config, data.tuning, Network(data.tuning.model.blueprint, data.tuning.model.weights))


def make_listing(config: FitConfig, tuning: Start, network: Any) -> Listing:
    """Listing for a network."""
    strategy = config.tuning.strategy
    assert strategy is not None
    shapes = {name: tuple(v.shape) for name, v in network.trainable_by_name.items()}
    blueprint = tuning.model.blueprint
    moves = movements(blueprint, shapes, strategy, tuning.present, tuning.new, config.tuning.rank)
    return Listing(strategy, tuple(listing(blueprint, shapes, moves)), tuning.present, tuning.new)
