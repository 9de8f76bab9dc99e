# penguin_vl on a Jetson, for exported models (docs/jetson.md). The steps are those of docs/install.md.
#
# JetPack 6 (Orin, Ubuntu 22.04, TensorRT 10.3):
#     docker build -f docker/jetson.Dockerfile -t penguin_vl:jetson .
# JetPack 7 (Thor, Ubuntu 24.04, CUDA 13), which runs NVIDIA's images for arm64 servers:
#     docker build -f docker/jetson.Dockerfile -t penguin_vl:jetson \
#         --build-arg BASE_IMAGE=nvcr.io/nvidia/tensorrt:25.08-py3 --build-arg ROS_DISTRO=jazzy .
# Run it with `docker run --runtime nvidia --network host --ipc host`.
#
# Never built so far: see docs/install.md.
ARG BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
ARG ROS_DISTRO=humble
ARG ROS_APT_SOURCE=1.1.0
SHELL ["/bin/bash", "-e", "-o", "pipefail", "-c"]
# NVIDIA's images pin Python packages with PIP_CONSTRAINT, among them some of requirements/base.txt.
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=${ROS_DISTRO} PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT="" HF_HOME=/models/huggingface
ENV PATH=/usr/local/cuda/bin:$PATH
WORKDIR /ros2_ws
# hadolint ignore=DL3008,SC1091
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && curl -fsSLo ros2-apt-source.deb "https://github.com/ros-infrastructure/ros-apt-source/releases/download/$ROS_APT_SOURCE/ros2-apt-source_$ROS_APT_SOURCE.$(. /etc/os-release && echo "$VERSION_CODENAME")_all.deb" \
    && apt-get install -y --no-install-recommends ./ros2-apt-source.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends "ros-$ROS_DISTRO-ros-base" build-essential ros-dev-tools python3-dev \
    && rm -rf ros2-apt-source.deb /var/lib/apt/lists/*
COPY . src/penguin_vl
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rosdep init \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install -y --from-paths src --ignore-src \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE
# hadolint ignore=DL3013,SC1091
RUN . venv/bin/activate \
    && pip install -r src/penguin_vl/requirements/base.txt "numpy<2" \
    && pip install pycuda
# hadolint ignore=SC1090,SC1091
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" \
    && . venv/bin/activate \
    && colcon build --packages-select penguin_vl --cmake-args -DPENGUIN_VL_TRAINING=OFF
ENTRYPOINT ["/ros2_ws/src/penguin_vl/docker/entrypoint.sh"]
CMD ["ros2", "launch", "penguin_vl", "penguin.launch.py", "runtime:=tensorrt"]
