"""Work that goes image by image, spread over processes."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

Result = TypeVar("Result")


def each_image(
    image_ids: Sequence[str], work: Callable[..., Result], title: str, jobs: int, *more: Sequence[Any]
) -> list[Result]:
    """Call `work(image_id, *values)` for every image, in `jobs` processes, under a progress bar called `title`.

    more: further arguments of `work`, each a sequence with one value per image. jobs: as joblib counts; -1 for one
    process per core. The images are done in any order, so that the bar moves whenever one is; the results come in the
    order of `image_ids`. `work` must pickle: a function of a module, or a functools.partial of one. If results of a
    killed process are to be kept, `work` itself skips what exists.
    """
    tasks = (
        delayed(_numbered)(number, work, *values) for number, values in enumerate(zip(image_ids, *more, strict=True))
    )
    done = Parallel(jobs, return_as="generator_unordered")(tasks)
    results = dict(tqdm(done, title, len(image_ids), unit="image", mininterval=2))
    return [results[number] for number in range(len(image_ids))]


def _numbered(number: int, work: Callable[..., Result], *values: Any) -> tuple[int, Result]:
    return number, work(*values)
