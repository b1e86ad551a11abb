"""The floors of the house (DESIGN 2), read off the syntax trees; nothing here is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "smtpbackend"

WORDS = {
    "errors",
    "hiding",
    "values",
    "public_names",
    "text",
    "spelling",
    "after_fork",
    "address",
    "domain",
    "address_list",
    "address_syntax",
    "message",
    "mime",
    "content",
    "sources",
    "header",
    "email_message",
    "part_encoding",
    "refolding",
    "stdlib_mime",
    "content_type",
    "unsubscribe",
    "envelope",
    "outcome",
    "known_replies",
    "events",
    "receivers",
    "logs",
}
ABOVE = {"outbox", "testing", "diagnose", "adapters", "oauth2", "sasl", "__main__", "command_line"}
FLOORS = ["words", "protocol", "delivery", "signals", "twins", "above", "frameworks"]
FORBIDDEN = {"socket", "ssl", "asyncio", "threading", "time", "select", "selectors", "_socket", "_ssl", "_thread"}


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package in ("smtpbackend", "smtpbackend_django", "smtpbackend_flask"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def floor(module: str) -> str:
    """The floor a module is on; the package itself, which loads the public names, is on none."""
    package, _, rest = module.partition(".")
    if package != "smtpbackend":
        return "frameworks"
    room = rest.partition(".")[0]
    if not room:
        return "names"
    if room in WORDS:
        return "words"
    if room in ("protocol", "delivery", "signals"):
        return room
    if room in ("blocking", "aio", "base_mailer", "streams", "forking", "fetching", "polling"):
        return "twins"
    if room in ABOVE:
        return "above"
    raise AssertionError(f"{module} is on no floor of DESIGN 2")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, *, type_checking: bool = True, inside_functions: bool = True) -> Iterator[tuple[str, int]]:
    """The modules that ``module`` imports, anywhere in it, with the line."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for name in node.names:
                whole = f"{base}.{name.name}"
                yield whole if whole in MODULES else base, node.lineno
        elif is_type_checking(node) and not type_checking:
            assert isinstance(node, ast.If)
            waiting += node.orelse
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        else:
            waiting += ast.iter_child_nodes(node)


def ours(name: str) -> bool:
    return name.partition(".")[0] in ("smtpbackend", "smtpbackend_django", "smtpbackend_flask")


@pytest.mark.parametrize("module", MODULES)
def test_a_floor_imports_only_the_floors_above_it(module: str) -> None:
    """Imports for the types alone count too, but in ``errors``, which speaks of what became of a message."""
    here = floor(module)
    if here == "names":
        return
    for name, line in imports(module, type_checking=module != "smtpbackend.errors"):
        if not ours(name):
            continue
        there = floor(name)
        where = f"{module}:{line} imports {name}"
        if there == "names":
            # Who stands in the house knows the rooms.
            assert here == "frameworks", f"{where}: name the module itself"
            continue
        assert FLOORS.index(there) <= FLOORS.index(here), f"{where}, which stands on it"


@pytest.mark.parametrize("module", [module for module in MODULES if floor(module) == "frameworks"])
def test_an_adapter_imports_nothing_private(module: str) -> None:
    """So that one for a framework that is not here yet can be written outside."""
    allowed = {"smtpbackend", "smtpbackend.adapters", "smtpbackend.outbox", "smtpbackend.signals"}
    for name, line in imports(module):
        if name.partition(".")[0] == "smtpbackend":
            assert name in allowed, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_rooms_beside_each_other_do_not_know_each_other(module: str) -> None:
    """Neither twin imports the other, neither framework the other."""
    for one, other in (
        ("smtpbackend.blocking", "smtpbackend.aio"),
        ("smtpbackend.aio", "smtpbackend.blocking"),
        ("smtpbackend_django", "smtpbackend_flask"),
        ("smtpbackend_flask", "smtpbackend_django"),
    ):
        if module == one or module.startswith(f"{one}."):
            for name, line in imports(module):
                assert name != other, f"{module}:{line}"
                assert not name.startswith(f"{other}."), f"{module}:{line}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) in ("words", "protocol", "delivery")])
def test_time_and_the_network_come_from_outside(module: str) -> None:
    """Words, conversations and decisions are functions of their arguments.

    tls.py alone builds contexts. Locks are in sources.py alone, since threads share the files of their callers, and in
    after_fork.py, since threads of a child that Python is not told of wait for what is done there once.
    """
    allowed = {
        "smtpbackend.delivery.tls": {"ssl"},
        "smtpbackend.errors": {"socket", "ssl"},  # the classes of their errors
        "smtpbackend.sources": {"threading"},
        "smtpbackend.after_fork": {"threading"},
    }.get(module, set())
    for name, line in imports(module):
        assert name.partition(".")[0] not in FORBIDDEN - allowed, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) == "words"])
def test_the_words_need_the_standard_library_and_idna_only(module: str) -> None:
    import sys

    for name, line in imports(module):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or top in ("idna", "smtpbackend"), f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) not in ("frameworks",)])
def test_the_core_knows_no_framework(module: str) -> None:
    for name, line in imports(module):
        assert name.partition(".")[0] not in ("django", "flask", "flask_mail"), f"{module}:{line} imports {name}"


def test_the_package_itself_imports_only_the_way_to_its_names_when_it_is_loaded() -> None:
    loaded = imports("smtpbackend", type_checking=False, inside_functions=False)
    assert {name for name, _ in loaded if ours(name)} == {"smtpbackend.public_names"}


# Imports inside functions that close a circle, and why they may.
CIRCLES = {
    ("smtpbackend.protocol.sasl", "smtpbackend.protocol.bearer"): "a mechanism is loaded when it is used",
    ("smtpbackend.protocol.sasl", "smtpbackend.protocol.digest"): "a mechanism is loaded when it is used",
    ("smtpbackend.protocol.sasl", "smtpbackend.protocol.scram"): "a mechanism is loaded when it is used",
}


def circle(needed: dict[str, set[str]]) -> set[str]:
    """The modules that need each other: what is left without those that need nothing, or that nothing needs."""
    left = needed
    while True:
        wanted = set().union(*left.values())
        kept = {module for module, others in left.items() if module in wanted and others & left.keys()}
        if kept == left.keys():
            return kept
        left = {module: left[module] & kept for module in kept}


def test_no_imports_go_in_a_circle() -> None:
    """Each module can be loaded first. An import inside a function counts: it may only hide a circle."""
    needed = {
        module: {
            name
            for name, _ in imports(module, type_checking=False)
            if name in MODULES and name != module and (module, name) not in CIRCLES
        }
        for module in MODULES
    }
    assert circle(needed) == set()


def test_the_check_for_circles_sees_them() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circle({"a": {"b"}, "b": {"a", "d"}, "c": {"b"}, "d": set()}) == {"a", "b"}


# Conversations ---------------------------------------------------------------------------------------------------

CONVERSATIONS = [*sorted((CORE / "protocol").glob("*.py")), CORE / "delivery" / "dispatch.py"]
GENERATORS = {"Conversation", "Generator", "Iterator", "Exchange", "Effects"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def generators(trees: list[ast.Module]) -> set[str]:
    """The names of the functions and methods that are generators, or say that they return one."""
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                returns = node.returns.value if isinstance(node.returns, ast.Subscript) else node.returns
                if (isinstance(returns, ast.Name) and returns.id in GENERATORS) or any(
                    isinstance(inner, ast.Yield | ast.YieldFrom) for inner in own_nodes(node)
                ):
                    found.add(node.name)
    return found - {"__iter__"}


def dropped(tree: ast.Module, names: set[str]) -> Iterator[tuple[str, int]]:
    """Calls of a generator whose result goes nowhere: it would never run, and nothing would say so."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in names:
            continue
        if name == "next" or (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant)):
            continue
        parent = parents[node]
        if isinstance(parent, ast.IfExp | ast.NamedExpr):
            parent = parents[parent]
        taken = (
            ast.YieldFrom | ast.Assign | ast.AnnAssign | ast.Return | ast.Call | ast.keyword | ast.For | ast.withitem
        )
        if not isinstance(parent, taken | ast.comprehension | ast.Starred | ast.Lambda):
            yield name, node.lineno


def test_no_conversation_is_called_and_dropped() -> None:
    trees = {path: tree_of(path) for path in CONVERSATIONS}
    names = generators(list(trees.values()))
    assert {"ask", "await_reply", "_secure", "hello", "deliver", "open", "run", "_converse"} <= names
    found = [f"{path.name}:{line} {name}" for path, tree in trees.items() for name, line in dropped(tree, names)]
    assert found == []


@pytest.mark.parametrize(
    ("line", "drops"),
    [
        ("self._ask(b'')", True),
        ("reply = self._ask(b'').code", True),
        ("if self._ask(b''): pass", True),
        ("self._ask(b'') or 1", True),
        ("x = yield self._ask(b'')", True),
        ("yield from self._ask(b'')", False),
        ("reply = yield from self._ask(b'')", False),
        ("reply = (yield from self._ask(b'')).code", False),
        ("steps = self._ask(b'')", False),
        ("return self._ask(b'')", False),
        ("next(self._ask(b''))", False),
        ("yield Talk(connection, self._ask(b''), None)", False),
        ("for step in self._ask(b''): pass", False),
    ],
)
def test_the_check_for_dropped_conversations_sees_them(line: str, drops: bool) -> None:
    tree = ast.parse(f"def _ask(self, line):\n    yield line\ndef other(self):\n    {line}\n    yield\n")
    assert bool(list(dropped(tree, generators([tree])))) is drops


def test_a_line_sets_its_own_attributes() -> None:
    """Others set the phase that it is in, and end it by its method: nothing else of it is set outside line.py."""
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr != "phase":
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                assert owner != "line", f"{path.name}:{node.lineno} sets {node.attr} of a line"


# The write gate --------------------------------------------------------------------------------------------------

TALKING = [
    path
    for room in ("protocol", "delivery", "blocking", "aio")
    for path in sorted((CORE / room).glob("*.py"))
    # dkim.py talks to no server: it reads the lines of a content
    if path not in (CORE / "protocol" / "command.py", CORE / "delivery" / "dkim.py")
]


def docstrings(tree: ast.Module) -> set[ast.AST]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def given_here(argument: ast.AST) -> Iterator[ast.AST]:
    """The nodes of an argument, but for what is handed to the gate."""
    if isinstance(argument, ast.Call) and ast.unparse(argument.func).startswith("command."):
        return
    yield argument
    for child in ast.iter_child_nodes(argument):
        yield from given_here(child)


@pytest.mark.parametrize("path", TALKING, ids=[str(path.relative_to(CORE)) for path in TALKING])
def test_command_lines_are_built_in_the_gate_alone(path: Path) -> None:
    """Outside protocol/command.py nobody ends a line, and nothing that is written is made on the spot (DESIGN 4.8)."""
    tree = tree_of(path)
    told = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in told:
            ends = "\r\n" if isinstance(node.value, str) else b"\r\n"
            if isinstance(node.value, str | bytes):
                assert ends not in node.value, f"{path.name}:{node.lineno} ends a line"  # type: ignore[operator]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] != "Write" and not called.endswith(("line.put", "line.ask")):
                continue
            for argument in node.args[:1] if not called.endswith(".put") else node.args:
                for inner in given_here(argument):
                    made = isinstance(inner, ast.Constant | ast.JoinedStr | ast.BinOp) or (
                        isinstance(inner, ast.Attribute) and inner.attr in ("encode", "format", "join")
                    )
                    assert not made, f"{path.name}:{node.lineno} writes what it made itself"
