"""What `nuclei serve` answers: its page, files that are dropped, how far they are, and their results."""

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nuclei.errors import UserError, explain_os_error
from nuclei.inference.gallery import PARTS, render_page
from nuclei.inference.serve import DONE, HOST, Bench, read_settings

MB = 1_000_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


def make_app(bench: Bench, max_mb: int) -> FastAPI:
    """Return the application of a bench; files of more than `max_mb` are refused."""
    app = FastAPI(title="nuclei", docs_url=None, redoc_url=None, openapi_url=None)
    lead = Template((PARTS / "serve.html").read_text(encoding="utf-8")).substitute(max_mb=escape(str(max_mb)))
    page = render_page({"images": [], "max_mb": max_mb}, ("viewer", "serve"), lead)

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        """Refuse what pages of other sites ask for, which a browser of this machine would let through."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") or origin not in (None, f"http://{request.headers.get('host')}"):
            return PlainTextResponse("only the page of nuclei serve itself may ask for this", 403)
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    # Added last, it is asked first: a name that leads here by DNS is none of this machine's.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.exception_handler(UserError)
    async def explain(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(OSError)
    async def explain_disk(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return JSONResponse({"error": explain_os_error(error) if isinstance(error, OSError) else str(error)}, 507)

    @app.get("/")
    def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/images")
    def list_images() -> list[dict[str, Any]]:
        return [job.describe() for job in list(bench.jobs.values())]

    @app.put("/images/{name:path}")
    async def add_image(
        request: Request, name: str, channel: str = "", plane: str = "", pixel_size: str = "", normalise: bool = True
    ) -> dict[str, Any]:
        reading = read_settings(channel, plane, pixel_size, normalise)
        plain, path = bench.place(name)
        await receive(request, plain, path, max_mb)
        return bench.add(path, reading).describe()

    @app.delete("/images")
    def clear() -> None:
        bench.clear()

    @app.get("/results/{key}/{file:path}")
    def give_result(key: str, file: str) -> Response:
        job = bench.jobs.get(key)
        if job is None or file not in job.results:
            return PlainTextResponse("there is no such result", 404)
        return FileResponse(bench.output(job) / file)

    @app.get("/results/{key}.zip")
    def give_archive(key: str) -> Response:
        job = bench.jobs.get(key)
        if job is None or not job.results:
            return PlainTextResponse("there are no such results", 404)
        return FileResponse(bench.pack([job], bench.folder / f"zips/{key}.zip"), filename=f"{Path(job.file).stem}.zip")

    @app.get("/results.zip")
    def give_all() -> Response:
        jobs = [job for job in list(bench.jobs.values()) if job.state == DONE and job.results]
        return FileResponse(bench.pack(jobs, bench.folder / "zips/all.zip"), filename="nuclei_of_images.zip")

    return app


async def receive(request: Request, name: str, path: Path, max_mb: int) -> None:
    """Write the body of a request to a path; raise UserError, and leave nothing there, if it is too large."""
    said = request.headers.get("content-length", "")
    size = int(said) if said.isdecimal() else 0
    try:
        with path.open("wb") as file:
            if size <= max_mb * MB:
                async for part in request.stream():
                    size = max(size, file.tell() + len(part))
                    if size > max_mb * MB:
                        break
                    file.write(part)
        if size > max_mb * MB:
            raise UserError(
                f"{name} is refused: it has {size / MB:,.0f} MB, more than {max_mb} MB: allow more by --max-mb, or use "
                "nuclei predict-images"
            )
    except BaseException:  # also where the browser goes away
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        raise
