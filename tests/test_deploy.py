"""The files of docs/cluster/ are accepted by their readers (Ray, bash under Slurm, Kubernetes) and by our own steps."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
PROJECT = Path(__file__).resolve().parents[1]
DEPLOY = PROJECT / "docs" / "cluster"
RAY = re.search(r"^ray==(\S+)$", (PROJECT / "requirements-cluster.txt").read_text(), flags=re.MULTILINE)[1]


def test_ray_takes_the_cluster():
    pytest.importorskip("ray", reason="the package ray is not installed: pip install -r requirements-cluster.txt")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="'sort' was unexpected"):
        validate_config(prepare_config({**config, "sort": 1}))


def test_the_version_of_ray_is_the_same_everywhere():
    named = {path.name: set(re.findall(r"ray\[default\]==([\d.]+)", path.read_text())) for path in DEPLOY.iterdir()}
    assert named["Dockerfile"] == named["ray-cluster.yaml"] == {RAY}
    assert yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["rayVersion"] == RAY


def entrypoints() -> list[str]:
    [launched] = re.findall(r'ray exec \S+ "cd facefold && (.*)"', (DEPLOY / "ray-cluster.yaml").read_text())
    return [launched, yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]["entrypoint"]]


@pytest.mark.parametrize("command", entrypoints())
def test_the_commands_are_ours(command):
    _, script, *options = shlex.split(command)
    assert (PROJECT / script.removeprefix("/facefold/")).is_file()
    known = set(
        re.findall(
            r'"(--[a-z-]+)"',
            "".join((PROJECT / path).read_text() for path in ("src/run_all.py", "src/facefold/cli.py")),
        )
    )
    assert {option for option in options if option.startswith("--")} <= known and options[
        options.index("--engine") + 1
    ] == "ray"


def test_the_workers_of_the_job_on_kubernetes_have_what_the_head_has():
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]
    cluster = job["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]
    containers = [container for pod in pods for container in pod["containers"]]
    for of, name in ((pods, "volumes"), (containers, "volumeMounts"), (containers, "image")):
        assert all(one[name] == of[0][name] for one in of)
    assert all(container["resources"]["requests"] == container["resources"]["limits"] for container in containers)


def test_all_pods_see_the_root():
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    command = shlex.split(job["entrypoint"])
    root = Path(command[command.index("--root") + 1])
    assert pod["volumes"][0]["name"] == pod["containers"][0]["volumeMounts"][0]["name"]
    assert root.is_relative_to(pod["containers"][0]["volumeMounts"][0]["mountPath"])


STAND_IN = """#!/usr/bin/env bash
trap 'kill $!; echo stopped >> "$LOG"; exit 143' TERM
sleep ${SLOW:-0} > /dev/null 2>&1 &
echo "$(basename "$0") $*" >> "$LOG"
case "$(basename "$0") $1" in
    "scontrol show") printf 'one\\ntwo\\n' ;;
    "python src/run_all.py") wait; exit 3 ;;
esac
"""


def started(folder: Path, **more: str) -> subprocess.Popen:
    """The Slurm script with stand-ins for Slurm, Ray and Python, which note how they were called in `log`."""
    for name in ("scontrol", "srun", "ray", "python"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "PYTHON": str(folder / "python"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[one,two]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
        **more,
    }
    return subprocess.Popen(
        ["bash", str(DEPLOY / "slurm.sh"), "--root", "/shared/a b"],
        env=env,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_slurm_begins_a_cluster_and_runs_the_job_on_it(tmp_path):
    process = started(tmp_path)
    assert (process.wait(60), process.stderr.read()) == (3, "")
    ray = f"{tmp_path}/ray start"
    assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(
        [
            "scontrol show hostnames [one,two]",
            "ray health-check --address one:20007",
            f"srun --nodes 1 --ntasks 1 --nodelist one {ray} --head --node-ip-address one --port 20007 --num-cpus 4"
            " --block",
            f"srun --nodes 1 --ntasks 1 --exclude one {ray} --address one:20007 --num-cpus 4 --block",
            "python src/run_all.py --engine ray --address one:20007 --root /shared/a b",
        ]
    )


def test_slurm_stops_the_job_before_its_time_is_up_and_queues_it_again(tmp_path):
    process = started(tmp_path, SLOW="60")
    while not (tmp_path / "log").exists() or "run_all.py" not in (tmp_path / "log").read_text():
        assert process.poll() is None, process.stderr.read()
    process.terminate()
    process.wait(60)
    # srun starts next to the job, at any line.
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("srun")]
    assert lines[-2:] == ["stopped", "scontrol requeue 7"]
