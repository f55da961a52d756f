"""An ordinary application: REST, uploads, downloads, events, a socket. It knows nothing of what is in front of it."""

import asyncio
import hashlib
import tempfile

import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["PUT"])
items: dict[int, dict] = {}
tick = asyncio.Event()
with tempfile.NamedTemporaryFile(delete=False, suffix=".bin") as kept:
    kept.write(bytes(range(256)) * 64)


class Item(BaseModel):
    name: str
    price: float


@app.get("/items/{number}")
def read(number: int, response: Response):
    if number not in items:
        response.status_code = 404
        return {"detail": "none"}
    return items[number]


@app.put("/items/{number}", status_code=201)
def write(number: int, item: Item):
    items[number] = item.model_dump()
    return items[number]


@app.delete("/items/{number}", status_code=204)
def remove(number: int):
    items.pop(number, None)


@app.api_route("/echo/{rest:path}", methods=["GET", "POST", "PATCH"])
async def echo(rest: str, request: Request):
    return {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "many": request.headers.getlist("x-many"),
        "long": len(request.headers.get("x-long", "")),
        "origin": str(request.base_url),
        "client": request.client.host,
        "body": (await request.body()).decode(),
    }


@app.get("/redirect")
def redirect():
    return RedirectResponse("/echo/there", status_code=307)


@app.get("/login")
def login(response: Response):
    response.set_cookie("session", "s-1", httponly=True)
    response.set_cookie("theme", "dark")


@app.get("/session")
def session(request: Request):
    return request.cookies


@app.get("/long")
def long():
    return PlainTextResponse("long " * 1000)


@app.api_route("/file", methods=["GET", "HEAD"])
def file():
    return FileResponse(kept.name, filename="kept.bin")


@app.get("/pieces")
def pieces():
    return StreamingResponse((b"%d," % n for n in range(1000)), media_type="text/plain")


@app.get("/download")
def download():
    return StreamingResponse((bytes([n]) * (1 << 20) for n in range(32)), media_type="application/octet-stream")


@app.post("/upload")
async def upload(file: UploadFile):
    content = await file.read()
    return {"name": file.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@app.post("/stream")
async def stream(request: Request):
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest(), "chunked": request.headers.get("transfer-encoding")}


@app.post("/tick")
def tock():
    tick.set()


@app.get("/events")
def events():
    async def each():
        for n in range(5):
            yield f"id: {n}\ndata: {n}\n\n"
            await tick.wait()
            tick.clear()

    return StreamingResponse(each(), media_type="text/event-stream")


@app.get("/fail")
def fail():
    raise RuntimeError("a fault of the application's")


@app.websocket("/socket")
async def socket(ws: WebSocket):
    await ws.accept(subprotocol="chat" if "chat" in ws.scope["subprotocols"] else None)
    try:
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "bye":
                return await ws.close(4001, "as you wish")
            if message.get("bytes") is not None:
                await ws.send_bytes(message["bytes"])
            else:
                await ws.send_text(message["text"])
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, log_level="info", access_log=False)
