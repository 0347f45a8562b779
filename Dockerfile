# Finds your photos by drawing, without torch:
#   docker build -t drawfind .
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 -v /your/photos:/photos:ro -v drawfind:/data drawfind
# It prints the address to open, with the token that admits you.
FROM python:3.13-slim AS build
WORKDIR /program
COPY . .
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/build \
 && /opt/build/bin/python tools/install.py hatchling \
 && /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv /opt/drawfind \
 && /opt/drawfind/bin/python tools/install.py requirements-search.txt \
 && /opt/drawfind/bin/python -m pip install --no-deps /wheels/*.whl \
 && /opt/drawfind/bin/drawfind --version

FROM python:3.13-slim
RUN useradd --create-home --uid 1000 drawfind \
 && mkdir /photos /data && chown drawfind /data
COPY --from=build /opt/drawfind /opt/drawfind
ENV PATH=/opt/drawfind/bin:$PATH PYTHONUNBUFFERED=1
USER drawfind
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 5)"]
ENTRYPOINT ["drawfind"]
CMD ["serve", "--photos", "/photos", "--index", "/data", "--host", "0.0.0.0", "--share"]
