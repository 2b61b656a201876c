"""A plugin may be as broken as it likes: it is named, and nobody else suffers."""

import pytest

from gracecli.errors import InputError, PluginError
from gracecli.plugin.manager import PluginManager
from gracecli.plugin.specs import API, CommandSpec, EngineSpec, OptimizerSpec

ENGINE = """
    from gracecli.plugin import EngineSpec, hookimpl

    @hookimpl
    def gracecli_register_engines():
        yield EngineSpec(name="spring", help="Harmonic springs.", factory="springs:create_engine")
"""


def only_broken(manager: PluginManager):
    """The one broken plugin; the built-ins must be whole beside it."""
    assert {"relax", "plugins"} <= set(manager.commands())
    assert "tensorflow" in manager.engines()
    (plugin,) = manager.broken
    assert plugin.specs == ()
    assert len(manager.warnings) == 1
    assert plugin.label in manager.warnings[0]
    return plugin


def test_built_ins_come_through_the_same_interface():
    manager = PluginManager()
    assert manager.plugins[0].name == "gracecli"
    assert manager.engines()["tensorflow"].built_in
    assert manager.warnings == []


def test_every_built_in_optimizer_exists_in_ase():
    for spec in PluginManager().optimizers().values():
        assert hasattr(spec.load(), "run"), spec.name


def test_a_sound_plugin_is_listed_with_its_distribution(site):
    site.install("grace-spring", ENGINE)
    spec = site.manager().engines()["spring"]
    assert spec.distribution == "grace-spring 1.2.3"
    assert not spec.built_in


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import tensorflow_that_is_not_there", "No module named 'tensorflow_that_is_not_there'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def broken(:", "SyntaxError"),
        (
            """
            from gracecli.plugin import hookimpl
            @hookimpl
            def gracecli_register_engine():
                return []
            """,
            "no hook is called gracecli_register_engine; did you mean gracecli_register_engines?",
        ),
        (
            """
            def gracecli_register_engines():
                return []
            """,
            "gracecli_register_engines is not marked with @hookimpl",
        ),
        (
            """
            from gracecli.plugin import hookimpl
            @hookimpl
            def gracecli_register_engines():
                return [{"name": "spring"}]
            """,
            "returned dict, not EngineSpec",
        ),
        (
            """
            from gracecli.plugin import hookimpl
            @hookimpl
            def gracecli_register_engines():
                pass
            """,
            "returned NoneType, not EngineSpec objects",
        ),
        (
            """
            from gracecli.plugin import CommandSpec, hookimpl
            @hookimpl
            def gracecli_register_engines():
                yield CommandSpec(name="spring", help="Springs.", import_path="a:b")
            """,
            "returned CommandSpec, not EngineSpec",
        ),
        (
            """
            from gracecli.plugin import EngineSpec, hookimpl
            @hookimpl
            def gracecli_register_engines():
                yield EngineSpec(name="spring", help="Springs.", factory="a:b")
                raise KeyError("half way")
            """,
            "KeyError: 'half way'",
        ),
        (
            """
            from gracecli.plugin import hookimpl
            @hookimpl
            def gracecli_register_engines(everything):
                return []
            """,
            "PluginValidationError",
        ),
    ],
)
def test_a_broken_plugin_is_a_row_and_a_warning(site, source, reason):
    site.install("grace-broken", source, version="0.9")
    plugin = only_broken(site.manager())
    assert plugin.label == "grace-broken 0.9"
    assert reason in plugin.error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (f"name='spring', help='Springs.', factory='a:b', api={API + 1}", "upgrade gracecli"),
        ("name='spring', help='Springs.', factory='a:b', api=0", "upgrade the plugin"),
        ("name='Spring', help='Springs.', factory='a:b'", "must be lower case"),
        ("name='spring', help='', factory='a:b'", "help must be one line"),
        ("name='spring', help='Springs.', factory='a.b'", "'package.module:object'"),
        ("name='spring', help='Springs.', factory=print", "factory must be str"),
        ("name='spring', help='Springs.', factory='a:b', priority='high'", "priority must be int"),
        ("name='spring', help='Springs.', factory='a:b', colour='red'", "unexpected keyword argument 'colour'"),
    ],
)
def test_specs_are_checked(site, arguments, reason):
    source = "from gracecli.plugin import EngineSpec, hookimpl\n@hookimpl\ndef gracecli_register_engines():\n"
    site.install("grace-spring", f"{source}    return [EngineSpec({arguments})]\n")
    assert reason in only_broken(site.manager()).error


def test_one_broken_plugin_leaves_the_others_alone(site):
    site.install("grace-broken", "raise RuntimeError('no luck')")
    site.install("grace-spring", ENGINE)
    manager = site.manager()
    assert "spring" in manager.engines()
    assert [plugin.distribution for plugin in manager.broken] == ["grace-broken"]


def test_a_name_claimed_twice_is_an_error_that_names_both(site):
    site.install("grace-spring", ENGINE)
    site.install("grace-steel", ENGINE, version="2.0")
    manager = site.manager()
    assert "spring" not in manager.engines()
    with pytest.raises(PluginError, match=r"grace-spring 1\.2\.3 and grace-steel 2\.0"):
        manager.find(EngineSpec, "spring")
    assert site.manager(selection=["grace-steel"]).engines()["spring"].distribution == "grace-steel 2.0"


def test_a_third_claim_joins_the_conflict(site):
    for distribution in ("grace-a", "grace-b", "grace-c"):
        site.install(distribution, ENGINE)
    manager = site.manager()
    assert "spring" not in manager.engines()
    assert len(manager.conflicts[EngineSpec, "spring"]) == 3


def test_built_ins_are_never_shadowed_silently(site):
    site.install("grace-spring", ENGINE.replace('"spring"', '"tensorflow"'))
    manager = site.manager()
    assert manager.engines()["tensorflow"].built_in
    assert manager.warnings == [
        "engine 'tensorflow' of grace-spring 1.2.3 is ignored: gracecli has its own of that name"
    ]


def test_selection_by_entry_point_or_distribution_name(site):
    site.install("grace-spring", ENGINE, name="spring")
    site.install("grace-broken", "raise RuntimeError('no luck')")
    for name in ("spring", "grace-spring"):
        manager = site.manager(selection=[name])
        assert "spring" in manager.engines()
        assert manager.broken == []
    manager = site.manager(selection=["sprong"])
    assert "spring" not in manager.engines()
    assert "did you mean spring" in manager.warnings[0]


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(InputError, match=r"no optimizer is called 'fires'.*did you mean fire"):
        PluginManager().find(OptimizerSpec, "fires")


def test_a_missing_object_blames_the_distribution(site):
    site.install("grace-spring", ENGINE)
    with pytest.raises(PluginError, match=r"engine 'spring' of grace-spring 1\.2\.3 does not import.*springs"):
        site.manager().engines()["spring"].load()


def test_command_of_a_broken_plugin_says_so(site):
    site.install("grace-broken", "raise RuntimeError('no luck')", name="sparkle")
    with pytest.raises(PluginError, match="no luck") as caught:
        site.manager().raise_if_unusable(CommandSpec, "sparkle")
    assert isinstance(caught.value.__cause__, RuntimeError)
