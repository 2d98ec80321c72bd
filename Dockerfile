# The service's image: every command of `strongroom`, as an ordinary user, without tools to build or install.
FROM python:3.11.17-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/strongroom
ENV PATH=/opt/strongroom/bin:$PATH
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY keymgmt keymgmt
COPY migrations migrations
COPY replication replication
COPY vault vault
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && pip uninstall --yes setuptools pip

FROM python:3.11.17-slim-bookworm
# A new volume takes owner and mode from the folder that it is mounted on.
RUN pip uninstall --yes --root-user-action=ignore wheel setuptools pip \
 && groupadd --gid 10001 strongroom \
 && useradd --uid 10001 --gid strongroom --no-create-home --shell /usr/sbin/nologin strongroom \
 && install --directory --owner=strongroom --group=strongroom --mode=0700 /var/lib/strongroom
COPY --from=build /opt/strongroom /opt/strongroom
ENV PATH=/opt/strongroom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8300
ENTRYPOINT ["strongroom"]
CMD ["serve"]
