# Both binaries in a small image without a shell, as a user without rights.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin pilot-agent --bin ithildin-proxy

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/pilot-agent /src/target/release/ithildin-proxy /usr/local/bin/
# Istio's sidecars and gateways run as 1337.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
