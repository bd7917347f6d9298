import pytest

from tests.integration.faults.harness import BreakableFarm


@pytest.fixture
def breakable(tmp_path, clean_env):
    """Make farms with workers of these names, and close them.

    broken: one of their safeguards (see stand_in).
    """
    farms = []

    def make(*names, broken="", **settings):
        farm = BreakableFarm(tmp_path / f"farm{len(farms)}", clean_env, **settings)
        farms.append(farm)
        for name in names:
            farm.add_worker(name, LTX_FAULTS_BREAK=broken)
        farm.await_workers()
        return farm

    yield make
    for farm in farms:
        assert not farm.close()


@pytest.fixture
def tell(request, capsys):
    """Print a measurement to the terminal, whether output is captured or not."""

    def line(text):
        with capsys.disabled():
            request.config.get_terminal_writer().line(text)

    return line
