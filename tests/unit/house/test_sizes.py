"""How much the worker's functions and constructors may be of: what builds a worker is read from its top to its end."""

import ast

from tests.unit.house.test_boundaries import MODULES, in_folder

MOST_LINES = 40
"""Of a function that builds or runs a worker."""
MOST_POSITIONAL = 6
"""Of a constructor's arguments; what there are more of is named, or grouped in a dataclass."""


def functions(module):
    return [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.FunctionDef)]


def test_a_worker_is_built_from_short_functions():
    long = {
        f"{module}.{each.name}": each.end_lineno - each.lineno + 1
        for module in ("ltx_worker.celery.app", "ltx_worker.celery.assembly")
        for each in functions(module)
        if each.end_lineno - each.lineno >= MOST_LINES
    }
    assert long == {}


def positional(node):
    """How many arguments a class's constructor takes by their places alone."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return len(each.args.posonlyargs) + len(each.args.args) - 1
    for decorator in node.decorator_list:
        if "dataclass" in ast.unparse(decorator):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            return 0 if "kw_only=True" in ast.unparse(decorator) else len(fields)
    return 0


def test_no_constructor_takes_many_arguments_by_their_places():
    sizes = {
        f"{module}.{node.name}": positional(node)
        for module in in_folder("ltx_worker")
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: size for name, size in sizes.items() if size > MOST_POSITIONAL} == {}
