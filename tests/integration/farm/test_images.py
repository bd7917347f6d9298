"""Test that a picture becomes the first frame of a video, through the farm."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import ConditioningItem, GenerationRequest
from tests.clips import read_clip
from tests.integration.conftest import PROMPT, ltx_inside
from tests.integration.farm.test_jobs import engines_of, reach

NAVY, RED = (13, 20, 77), (230, 26, 26)


@pytest.fixture
def picture(tmp_path):
    """Draw a frame as the model knows them: a red ball on navy."""
    image = Image.new("RGB", (128, 128), NAVY)
    ImageDraw.Draw(image).ellipse((20, 44, 60, 84), fill=RED)
    path = tmp_path / "frame.png"
    image.save(path)
    return path


def psnr(frame, reference):
    error = np.mean((frame.astype(np.float64) - reference) ** 2)
    return 10 * np.log10(255**2 / error)


def test_the_first_frame_is_the_picture_as_well_as_the_vae_can_show_it(farm_env, picture, tmp_path):
    farm_env.start_worker()
    out = tmp_path / "out.mp4"
    done = ltx_inside("render", PROMPT, "--image", picture, "--seed", 1, "-o", out, env=farm_env.env)
    assert done.returncode == 0, done.stderr
    clip = read_clip(out)
    assert clip.frames.shape == (25, 128, 128, 3)
    given = np.array(Image.open(picture))
    pipeline = LTXPipeline("pocket")
    round_trip = pipeline.decode(pipeline.encode(given[None]), timestep=0.05)[0]
    own = psnr(np.round(round_trip * 255), given)
    shown = psnr(clip.frames[0], given)
    assert shown > own - 1, f"the VAE's own round trip has {own:.1f} dB, the video's first frame {shown:.1f} dB"
    assert shown > 20


def test_the_same_picture_is_stored_once(farm_env, picture):
    farm_env.start_worker()
    with farm_env.connect() as farm:
        for seed in (1, 2):
            item = ConditioningItem(kind="image", source=str(picture))
            job = farm.submit(GenerationRequest(prompt=PROMPT, conditioning=(item,), seed=seed, num_steps=2))
            *happened, last = farm.watch(job.id)
            assert last.snapshot.status is Status.DONE
            told = [update.event for update in happened if isinstance(update.event, events.Loading)]
            read = [event.fraction for event in told if event.message == "reading picture 1 of 1"]
            assert (read[0], read[-1]) == (0, 1)
    assert len(list((farm_env.storage / "inputs").iterdir())) == 1


def test_a_clip_can_be_extended_and_a_picture_can_come_last(farm_env, picture, tmp_path):
    farm_env.start_worker()
    first = tmp_path / "first.mp4"
    assert ltx_inside("render", PROMPT, "--seed", 1, "-o", first, env=farm_env.env).returncode == 0
    longer = tmp_path / "longer.mp4"
    arguments = ["--video", first, "--image", f"{picture}@last:0.8", "--frames", 33, "-o", longer]
    done = ltx_inside("render", PROMPT, *arguments, env=farm_env.env)
    assert done.returncode == 0, done.stderr
    assert "reads 0.00–2.08 s of first.mp4 as 25 frames; the video continues from them" in done.stderr
    assert psnr(read_clip(longer).frames[:17], read_clip(first).frames[:17]) > 20
    again = tmp_path / "again.mp4"
    done = ltx_inside("render", PROMPT, "--video", f"{longer}", "--frames", 25, "-o", again, env=farm_env.env)
    assert done.returncode == 0, done.stderr
    assert "reads 1.33–2.75 s of longer.mp4 as 17 frames" in done.stderr
    assert psnr(read_clip(again).frames[:9], read_clip(longer).frames[16:25]) > 20


def test_a_render_with_a_picture_goes_on_where_it_stopped(farm_env, picture):
    farm_env.start_worker(save_every=0)
    items = tuple(ConditioningItem(kind="image", source=str(picture), frame=frame) for frame in (0, 16))
    request = GenerationRequest(prompt=PROMPT, conditioning=items, num_steps=60, seed=1)
    with farm_env.connect() as farm:
        frames = []
        for kill in (False, True):
            job = farm.submit(request)
            if kill:
                reach(farm, job.id, 30)
                engines_of(farm_env.folder)[0].kill()
            *_, last = farm.watch(job.id)
            assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1 + kill)
            frames.append(read_clip(farm_env.storage / last.snapshot.result.video).frames)
        assert last.snapshot.lost_steps < 20
        assert np.array_equal(*frames)


def test_a_picture_that_is_cut_off_fails_in_a_sentence(farm_env, tmp_path):
    farm_env.start_worker()
    cut = tmp_path / "cut.png"
    Image.effect_noise((256, 256), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])  # it begins as a PNG does
    done = ltx_inside("render", PROMPT, "--image", cut, env=farm_env.env, cwd=tmp_path)
    assert done.returncode == 1
    assert "failed: image 1 is damaged or cut off" in done.stderr
    assert str(farm_env.folder) not in done.stderr
