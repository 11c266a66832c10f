# docker build -t qwen3-vl .
# docker run -p 8000:8000 -v ./Qwen3-VL-2B-Instruct:/model:ro -e QWEN3_VL_API_KEY=... qwen3-vl serve /model
#
# CPU only. For CUDA build with `--build-arg FEATURES=flex,server,cuda` on an image that has the NVIDIA libraries.
FROM rust:1.95-bookworm AS build
ARG FEATURES=flex,server
WORKDIR /source
RUN apt-get update && apt-get install -y --no-install-recommends nasm && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --release --locked --no-default-features --features "$FEATURES" && cp target/release/qwen3-vl /qwen3-vl

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates ffmpeg && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --uid 10001 qwen3-vl
COPY --from=build /qwen3-vl /usr/local/bin/qwen3-vl
# By number, so that Kubernetes sees that it is not root.
USER 10001
ENV QWEN3_VL_HOST=0.0.0.0
EXPOSE 8000
# SIGTERM lets the server finish its answers.
STOPSIGNAL SIGTERM
ENTRYPOINT ["qwen3-vl"]
CMD ["--help"]
