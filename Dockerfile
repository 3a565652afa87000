# docker build -t drsformer .                          CPU
# docker build -t drsformer --build-arg KIND=cuda12 .  or cuda13, tpu
# docker run --rm -v "$PWD:/data" drsformer derain photo.jpg
FROM python:3.12-slim
ARG KIND=cpu
WORKDIR /drsformer_jax
COPY . .
RUN case "$KIND" in cpu) extra=hub ;; *) extra="gcs,hub,$KIND" ;; esac \
    && pip install --no-cache-dir ".[$extra]"
WORKDIR /data
ENTRYPOINT ["drsformer"]
