# Penstock's image: one static program on nothing, run by an ordinary user, with
# /data as the folder it may write to.
#   docker build -t penstock .
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags=-s -o /out/penstock ./cmd/penstock
RUN mkdir -p /out/data /out/tmp && chown 65532:65532 /out/data /out/tmp

# The broker of compose/nats.yaml. Its usual image runs as root, in whose folder
# nobody else can write.
FROM nats:2.15.2-alpine AS nats
RUN mkdir /data && chown 65532:65532 /data
USER 65532:65532

FROM scratch AS penstock
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/penstock /penstock
COPY --from=build --chown=65532:65532 /out/tmp /tmp
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8081 8082
ENTRYPOINT ["/penstock"]
CMD ["up", "--listen", "0.0.0.0:8081", "--gateway", "0.0.0.0:8082"]
