# An image with the command `society`; runs, data and models stay outside. docs/install.md shows its use.
FROM python:3.12-slim

# An index of torch wheels in place of PyPI's, which have CUDA: https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=""
ARG EXTRAS="local,api,gguf,diversity,report,view"

RUN useradd --create-home society
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY society society
COPY providers providers
COPY finetune finetune
COPY evals evals
COPY store store
# torch alone first, so that no other package is sought at that index.
RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    && pip install --no-cache-dir ".[${EXTRAS}]" \
    && rm -rf /src

USER society
WORKDIR /work
ENTRYPOINT ["society"]
