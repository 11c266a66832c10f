"""A tiny local task of evalscope against a server: python3 local_task.py URL FOLDER. FOLDER holds tiny.jsonl, rows of
`messages` and `answer`. Prints how many were answered, and the mean recall of words (Rouge-L)."""

import json
import pathlib
import sys

from evalscope import TaskConfig, run_task

url, folder = sys.argv[1:3]
task = TaskConfig(
    model="fixture",
    api_url=f"{url}/v1",
    api_key="none",
    eval_type="openai_api",
    datasets=["general_vqa"],
    dataset_args={"general_vqa": {"local_path": folder, "subset_list": ["tiny"], "metric_list": ["Rouge"]}},
    generation_config={"max_tokens": 64, "temperature": 0.0, "stream": True},
    eval_batch_size=4,
    work_dir=f"{folder}/work",
)
run_task(task)
(file,) = pathlib.Path(folder).glob("work/*/reports/*/general_vqa.json")
report = json.loads(file.read_text())
(primary,) = (m for m in report["metrics"] if m["identity"] == report["primary_metric_identity"])
print(json.dumps({"answers": primary["num"], "score": primary["score"]}))
