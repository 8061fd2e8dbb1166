#!/usr/bin/env bash
# Our datasets beside Spark's (Scala and Python) and Polars, in turn: `run.sh FOLDER [--rounds N] [--percent P] [--jobs a,b]`.
# Installs the peers into FOLDER by name. Wants Python 3 with venv, and Java 17.
set -euo pipefail
folder=${1:?"usage: $0 FOLDER [--rounds N] [--percent P] [--jobs words,reduce,sort,pagerank]"}
shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder/classes"
folder=$(cd "$folder" && pwd)
[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyspark==4.3.0 polars==2.1.0 numpy
jars=$("$folder/venv/bin/python" -c 'import os, pyspark; print(os.path.join(os.path.dirname(pyspark.__file__), "jars"))')
if [ "$here/Jobs.scala" -nt "$folder/classes/Jobs.class" ]; then
  # The wheel brings the Scala compiler.
  java -cp "$jars/*" scala.tools.nsc.Main -usejavacp -d "$folder/classes" "$here/Jobs.scala"
fi
ours=$(cd "$here/../../.." && cargo bench -q -p benches --bench rdd --no-run --message-format json |
  "$folder/venv/bin/python" -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
exec "$folder/venv/bin/python" "$here/compare.py" "$ours" "$jars" "$folder/classes" "$@"
