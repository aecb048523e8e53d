# The image for ordinary use: docker build -t ebpf-hello .
#
# `make image` writes the same files without a daemon, reproducibly, and also for another architecture.
# Debian, because it packages a Rust compiler with a prebuilt core for BPF: scripts/setup finds it.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends bash ca-certificates git make
WORKDIR /src
COPY . .
RUN make build
RUN install -D -m 0755 target/release/ebpf-hello /image/usr/bin/ebpf-hello \
    && mkdir -p /image/etc /image/run/ebpf-hello /image/usr/share/sbom /image/var/lib/ebpf-hello \
    && install -d -m 1777 /image/tmp \
    && printf 'root:x:0:0:root:/:/sbin/nologin\nebpf-hello:x:65532:65532:ebpf-hello:/var/lib/ebpf-hello:/sbin/nologin\n' >/image/etc/passwd \
    && printf 'root:x:0:\nebpf-hello:x:65532:\n' >/image/etc/group \
    && scripts/sbom "$(uname -m)-unknown-linux-gnu" "$(git log -1 --format=%ct 2>/dev/null || echo 0)" >/image/usr/share/sbom/ebpf-hello.spdx \
    && chmod 0700 /image/var/lib/ebpf-hello && chown 65532:65532 /image/var/lib/ebpf-hello

# Static: nothing else is needed. Not root unless told to: a collector needs no right; an agent runs as
# root with CAP_BPF and CAP_PERFMON, as the chart grants them.
FROM scratch
LABEL org.opencontainers.image.title="ebpf-hello" \
      org.opencontainers.image.description="What runs on a Kubernetes node, live: agent and collector" \
      org.opencontainers.image.source="https://github.com/ebpf-hello/ebpf-hello" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
USER 65532
ENTRYPOINT ["/usr/bin/ebpf-hello"]
