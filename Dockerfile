# The page alone, without TensorFlow; tools/dockerfile.py tests these steps without Docker.
#   docker build -t ask-a-model .
#   docker run --rm -p 127.0.0.1:7860:7860 ask-a-model
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir .[app]
RUN useradd --create-home reader
USER reader
EXPOSE 7860
CMD ["mura", "app", "--host", "0.0.0.0", "--port", "7860", "--no-browser"]
