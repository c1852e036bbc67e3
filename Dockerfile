# idgrpo with CUDA, as a user without rights: docker build -t idgrpo . ; docker run --gpus all -v "$PWD/store:/store" idgrpo doctor
# Not built by a test: this project's tests run without Docker. A test reads it and compares its Python and its files with the project's.
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc g++ && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/idgrpo
ENV PATH=/opt/idgrpo/bin:$PATH PYTHONUNBUFFERED=1

# Libraries first: they change less often than the sources.
COPY pyproject.toml constraints.txt README.md LICENSE /build/
COPY src /build/src
RUN pip install --no-cache-dir -c /build/constraints.txt /build && rm -rf /build

RUN useradd --create-home --uid 10001 idgrpo && mkdir /store && chown idgrpo /store
USER idgrpo
WORKDIR /home/idgrpo
ENV IDGRPO_STORE=/store HF_HOME=/store/hub
VOLUME /store
ENTRYPOINT ["idgrpo"]
CMD ["--help"]
