# The image of freshcreds: one program, no shell, no package manager, nothing that it would load.
#
#   docker build -t freshcreds .
#   docker run -v registry-auth:/var/run/freshcreds freshcreds run 123456789012.dkr.ecr.eu-west-1.amazonaws.com
#
# For another platform, and the programs alone, for a package:
#
#   docker build --platform linux/arm64 -t freshcreds .
#   docker build --target binaries --output DIRECTORY .
#
# Both bases are arguments, so that a mirror or a digest can take their place; RUNTIME=plain is a base made
# here, of the builder's certificates. dist/image/build.sh builds where nothing can be pulled. The office's own
# certificates, if its network looks into TLS: --secret id=trusted,src=/etc/ssl/certs/ca-certificates.crt
#
# No `# syntax=` line: that frontend would have to be pulled, and the one that BuildKit has built in, in every
# docker from 20.10 on, can do all that is asked for here. Before 23, docker asks BuildKit only with
# DOCKER_BUILDKIT=1.
ARG BUILDER=rust:1.95-slim-bookworm
ARG RUNTIME=gcr.io/distroless/static-debian12:nonroot

# The machine that builds compiles for the one that runs: nothing is emulated.
FROM --platform=${BUILDPLATFORM} ${BUILDER} AS builder
ARG TARGETARCH
WORKDIR /src
COPY dist/image/compile.sh /usr/local/bin/
# What is missing in the public base is fetched; see `trusted` above.
RUN --mount=type=secret,id=trusted,target=/etc/ssl/certs/ca-certificates.crt compile.sh toolchain

# The dependencies are a layer, not a cache mount: a layer can be kept where the next machine finds it
# (--cache-to), and needs nobody to say what may use it at the same time. It is made anew when the manifest or
# the lock file changes; a change in src/ costs this crate alone.
FROM builder AS dependencies
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN --mount=type=secret,id=trusted,target=/etc/ssl/certs/ca-certificates.crt compile.sh dependencies

# With the C library inside, of which glibc can do all that is needed without loading more: names by files
# and DNS, users by /etc/passwd. So the base need not have one, nor the same one, and is small. A daemon at rest
# has 8.4 MB resident, all its own. The dynamic one has 9.6 MB, of which 7.7 MB are its own (PSS) on a machine
# whose other processes share the C library; in a container nobody does. So a package has the dynamic one.
FROM dependencies AS static
COPY src src
RUN compile.sh static /out/freshcreds-static

FROM static AS dynamic
RUN compile.sh dynamic /out/freshcreds

FROM scratch AS binaries
COPY --from=dynamic /out/ /

# What the image has beside the base: owned by root, and the folder by the user below.
FROM builder AS files
COPY dist/image/files.sh /usr/local/bin/
COPY LICENSE /files/usr/share/doc/freshcreds/
COPY dist/notices/THIRD-PARTY-LICENSES.txt dist/notices/freshcreds.cdx.json /files/usr/share/doc/freshcreds/
RUN files.sh licences /files/usr/share/doc/freshcreds \
    && chmod -R u=rwX,go=rX /files \
    && install -d -m 0700 /folder/freshcreds

FROM files AS plain-files
RUN files.sh plain /plain
FROM scratch AS plain
COPY --from=plain-files /plain /
ENV PATH=/usr/local/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

# hadolint ignore=DL3006 # the tag, or a digest, is in the argument
FROM ${RUNTIME}
COPY --from=files /files/ /
COPY --from=static /out/freshcreds-static /usr/local/bin/freshcreds

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
COPY --from=files --chown=65532:65532 /folder/ /var/run/

# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/freshcreds"]
CMD ["run"]

# Healthy is what /readyz says. Asked often enough that whoever waits for it to start does not wait long.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/freshcreds", "check"]

# Last, since they differ from one commit to the next.
ARG VERSION=0.1.0
ARG REVISION
ARG CREATED
# Where the sources are, as a URL.
ARG SOURCE
LABEL org.opencontainers.image.title="freshcreds" \
      org.opencontainers.image.description="Keeps container-registry credentials fresh in docker's config.json" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE:+${SOURCE}#readme}"
