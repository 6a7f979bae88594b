# syntax=docker/dockerfile:1

# The image of freshcreds: one binary, no shell, no package manager.
#
#   docker build -t freshcreds .
#   docker run -v registry-auth:/var/run/freshcreds freshcreds run 123456789012.dkr.ecr.eu-west-1.amazonaws.com
#
# Both bases are arguments, so that a mirror or a digest can take their place:
#
#   docker build --build-arg RUNTIME=registry.example/distroless/cc-debian12@sha256:... .
#
# They must be of one Debian release: the binary needs the glibc that it was linked against.
# The slim builder has gcc, and that is all the crypto library asks for: it brings its assembly
# ready made, and is built without cmake.
ARG BUILDER=rust:1.95-slim-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
ARG TARGETPLATFORM
WORKDIR /src
COPY . .
# The cache mounts keep the crates and what was built from them, so that a change in src/ costs this
# crate alone. One target folder a platform: two builds side by side must not share it. The touch is
# there because cargo goes by time stamps, and a checkout may be older than what the cache holds.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,id=freshcreds-target-${TARGETPLATFORM},sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin freshcreds \
    && install -D -m 0755 target/release/freshcreds /out/usr/local/bin/freshcreds \
    && install -D -m 0644 LICENSE /out/usr/share/doc/freshcreds/LICENSE \
    && install -d -m 0700 /folder/freshcreds

FROM ${RUNTIME}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="freshcreds" \
      org.opencontainers.image.description="Keeps container-registry credentials fresh in docker's config.json" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

COPY --from=build /out/ /

# Where config.json is written. Mount a volume on this folder, never on the file in it: a mounted file
# cannot be replaced by a rename, the kernel answers EBUSY
# (https://man7.org/linux/man-pages/man2/rename.2.html), and its readers would stay on the old file.
# The folder is in the image, owned by the user below, because an empty named volume takes over the
# owner and the mode of what it is mounted on
# (https://docs.docker.com/engine/storage/volumes/#populate-a-volume-using-a-container).
# config.json is 0600: the containers that read it run as the same user, or as root.
# Beside it, without secrets, what was written: a container that starts again goes on with its tokens.
ENV DOCKER_CONFIG=/var/run/freshcreds
ENV FRESHCREDS_STATE=/var/run/freshcreds/.state
COPY --from=build --chown=65532:65532 /folder/ /var/run/

# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/freshcreds"]
CMD ["run"]

# Healthy is what /readyz says. Asked often enough that whoever waits for it to start does not wait long.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/freshcreds", "check"]
