from __future__ import annotations

import numpy as np
import pytest

from gracecli.errors import InputError, UsageError
from gracecli.fit.checkpoint import load_checkpoint
from gracecli.fit.config_read import make_config
from gracecli.fit.trainer import Trainer
from gracecli.fit.tuning.strategy import STRATEGIES, by_role, listing, movements
from gracecli.model.modelfile import load_model
from gracecli.model.presets import initial_weights, preset

SIZES = {"lmax": 1, "n_radial": 4, "n_product": 4, "n_density": 3, "n_basis": 5, "hidden": [8], "readout_hidden": [8]}


class Killed(Exception):
    """Stands for a crash between two steps."""


def moving_roles(name: str, strategy: str, **sizes) -> dict[str, tuple[int, int]]:
    blueprint = preset(name, ["Ag", "Cu", "Au"], embedding=4, **sizes)
    shapes = {k: v.shape for k, v in initial_weights(blueprint, np.random.default_rng(1)).items() if k[-3:] != "/rc"}
    return by_role(listing(blueprint, shapes, movements(blueprint, shapes, strategy, ["Ag"])))


@pytest.mark.parametrize("name", ["fs-small", "1l-small", "1l-medium", "2l-small", "2l-medium"])
def test_roles_decide_what_moves(name, tensorflow):
    """One third of what belongs to elements moves when one of three elements is in the data."""
    sizes = {} if name.startswith("fs") else SIZES
    naive = moving_roles(name, "naive", **sizes)
    assert all(moving == weights for moving, weights in naive.values())
    frozen = moving_roles(name, "frozen", **sizes)
    moved = {role for role, (moving, _) in frozen.items() if moving}
    assert moved in ({"readout"}, {"readout", "reference"})
    network = sum(weights for _, weights in frozen.values()) - frozen["readout"][1]
    assert network > 0
    assert 0 < frozen["readout"][0] <= frozen["readout"][1] / 3
    messages = moving_roles(name, "frozen-messages", **sizes)
    assert messages["embedding"] == (4, 12)
    assert ("messages" in messages) == name.startswith("2l")
    if name.startswith("2l"):
        assert messages["messages"][0] > 0
    readout = moving_roles(name, "readout", **sizes)
    assert readout["readout"][0] >= frozen["readout"][0]
    assert readout["products"][0] == 0 if "products" in readout else True


def test_a_strategy_that_would_move_nothing_is_refused():
    blueprint = preset("1l-small", ["Cu"], **SIZES, embedding=4)
    with pytest.raises(UsageError, match="would move nothing"):
        movements(blueprint, {"R/mlp/layer0/w": (5, 8)}, "frozen", ["Cu"])


@pytest.mark.parametrize("strategy", ["frozen", "frozen-messages"])
@pytest.mark.parametrize("precision", ["fp64", pytest.param("fp32", marks=pytest.mark.slow)])
def test_elements_absent_from_the_data_keep_every_bit(
    strategy, precision, tune, silver, base, evaluated, same_bits, emt_structures
):
    """Copper is not in the data. Weight decay and low precision must not touch its weights either."""
    config = tune(silver, strategy, precision=precision, weight_decay=0.1)
    result = Trainer(make_config(config)).run()
    copper, mixed = emt_structures(4, 31), emt_structures(6, 32, ("Cu", "Ag"))
    for engine in ("tensorflow", "native"):
        if engine == "native":
            pytest.importorskip("grace_native")
        assert same_bits(evaluated(result.model, copper, engine), evaluated(base, copper, engine))
        old, new = evaluated(base, mixed, engine), evaluated(result.model, mixed, engine)
        of_copper = [atoms.symbols == "Cu" for atoms in mixed]
        kept = [np.array_equal(a.energies[m], b.energies[m]) for a, b, m in zip(old, new, of_copper, strict=True)]
        moved = [
            not np.array_equal(a.energies[~m], b.energies[~m]) for a, b, m in zip(old, new, of_copper, strict=True)
        ]
        assert all(moved[i] for i in range(len(mixed)) if not of_copper[i].all())
        assert all(kept) == (strategy == "frozen")  # atoms beside silver feel its embedding in frozen-messages


def test_naive_moves_what_is_absent(tune, silver, base, evaluated, same_bits, emt_structures):
    result = Trainer(make_config(tune(silver, "naive"))).run()
    copper = emt_structures(2, 31)
    assert not same_bits(evaluated(result.model, copper), evaluated(base, copper))


def test_the_shift_is_fitted_before_training(tune, silver):
    """The new energies lie 0.3 eV/atom above; the shift takes that up, and only silver's reference moves."""
    trainer = Trainer(make_config(tune(silver, "frozen")))
    shift = trainer.data.tuning.record["shift"]
    assert set(shift["shifts"]) == {"Ag"}
    assert shift["after"] < 0.5 * shift["before"]
    base, prepared = trainer.data.tuning.base.blueprint, trainer.blueprint
    kinds = [node.kind for node in base]
    at = kinds.index("ScaleShift")
    old, new = base.nodes[at].element_shifts, prepared.nodes[at].element_shifts
    cu, ag = base.elements.index("Cu"), base.elements.index("Ag")
    assert new[cu] == old[cu]
    assert new[ag] - old[ag] == pytest.approx(shift["shifts"]["Ag"], abs=1e-12)


@pytest.mark.parametrize("strategy", [pytest.param("frozen", marks=pytest.mark.slow), "lora"])
def test_resume_after_a_crash_is_exact(strategy, tune, silver, tmp_path):
    whole = Trainer(make_config(tune(silver, strategy, tmp_path / "whole", epochs=6))).run()
    broken = tune(silver, strategy, tmp_path / "broken", epochs=6, checkpoint_steps=2)

    def crash(step: int) -> None:
        if step == whole.steps // 2 + 1:
            raise Killed

    with pytest.raises(Killed):
        Trainer(make_config(broken), after_step=crash).run()
    assert 0 < load_checkpoint(tmp_path / "broken" / "checkpoint.npz").state.step < whole.steps
    resumed = Trainer(make_config(broken), resume=True).run()
    one = load_checkpoint(whole.directory / "checkpoint.npz").arrays
    other = load_checkpoint(resumed.directory / "checkpoint.npz").arrays
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert load_model(whole.model).sha256() == load_model(resumed.model).sha256()


def test_a_resumed_fit_needs_the_same_base(tune, silver, base, tmp_path):
    import shutil

    copy = tmp_path / "copy.grace"
    shutil.copy(base, copy)
    config = tune(silver, "frozen", tmp_path / "fit", max_time="0.001s")
    config["model"]["start"] = str(copy)
    Trainer(make_config(config)).run()
    other = load_model(base)
    weights = {name: value + (0.1 if name.startswith("rho/") else 0.0) for name, value in other.weights.items()}
    from gracecli.model.modelfile import Model, save_model

    save_model(copy, Model(other.blueprint, weights, other.metadata), overwrite=True)
    with pytest.raises(InputError, match="other settings or data"):
        Trainer(make_config(config), resume=True)


def test_settings_of_fine_tuning_are_checked(tune, silver, base):
    config = tune(silver, "freeze")
    with pytest.raises(UsageError, match="no strategy is called 'freeze'") as caught:
        make_config(config)
    assert "frozen" in str(caught.value.hint)
    with pytest.raises(UsageError, match="needs a model to start from"):
        make_config({**tune(silver, "naive"), "model": {}})
    with pytest.raises(UsageError, match="needs a model to start from"):
        make_config({**tune(silver, "naive"), "model": {}, "tuning": {"rank": 3}})
    with pytest.raises(UsageError, match="unknown key 'rnak'"):
        make_config(tune(silver, "lora", tuning={"rnak": 3}))
    assert set(STRATEGIES) == {"naive", "frozen", "frozen-messages", "readout", "lora", "replay"}
