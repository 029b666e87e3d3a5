"""gcp-storage-emulator with what tensorstore asks beyond it: generations, conditional writes, offsets of lists."""

import logging
import multiprocessing
import os
import socket
import threading
import time
import urllib.request

BUCKET = "bucket"


def start() -> tuple[multiprocessing.Process, dict[str, str]]:
    """(the emulator's process, environment that points every client at it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b/{BUCKET}").close()
            break
        except OSError:
            time.sleep(0.1)
    return server, {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": url,  # orbax's arrays
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask an API that the emulator has not
    }


def _serve(port: int) -> None:
    os.environ.pop("STORAGE_EMULATOR_HOST", None)
    logging.disable()
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    lock = threading.RLock()

    def generation(storage, bucket, name):
        try:
            return storage.get_file_obj(bucket, name)["generation"]
        except NotFound:
            return "0"

    def download(request, response, storage, *args, original=objects.download, **kwargs):
        with lock:
            found = generation(storage, request.params["bucket_name"], request.params["object_id"])
            if found != "0":
                response["x-goog-generation"] = found
            return original(request, response, storage, *args, **kwargs)

    def insert(request, response, storage, *args, original=objects.insert, **kwargs):
        with lock:
            wanted, name = request.query.get("ifGenerationMatch"), request.query.get("name")
            if wanted and name and wanted[0] != generation(storage, request.params["bucket_name"], name[0]):
                response.status = 412
                return None
            return original(request, response, storage, *args, **kwargs)

    def ls(request, response, storage, *args, original=objects.ls, **kwargs):
        first, end = (request.query.get(key, [""])[0] for key in ("startOffset", "endOffset"))
        answer = response.json

        def within(found):
            items = [item for item in found["items"] if first <= item["name"] and (not end or item["name"] < end)]
            answer(found | {"items": items})

        response.json = within
        return original(request, response, storage, *args, **kwargs)

    objects.download, objects.insert, objects.ls = download, insert, ls
    from gcp_storage_emulator.server import create_server

    create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).run()
