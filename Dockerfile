# The service as an image that holds one static binary and nothing else: no shell, no package manager, no user but its own, and
# nothing that needs to be written outside the volume /data. deploy/image makes what is copied here, and builds it:
#
#   deploy/image immutable:latest
#   docker run --read-only --cap-drop ALL -p 127.0.0.1:8080:8080 -v immutable:/data immutable:latest
#
# The binary is compiled outside, by the compiler of the tests, so the image has no base that somebody else can change.
FROM scratch
COPY build/image/immutable /immutable
# Certificates of public authorities, for issuers, witnesses and webhooks.
COPY build/image/certs/ /etc/ssl/certs/
COPY --chown=65532:65532 build/image/volume/ /
USER 65532:65532
ENV IMMUTABLE_DATA_DIR=/data IMMUTABLE_LISTEN=0.0.0.0:8080 IMMUTABLE_LOG_FORMAT=json
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m --retries=3 CMD ["/immutable", "healthcheck"]
ENTRYPOINT ["/immutable"]
CMD ["serve"]
