#!/bin/sh
# readme_commands.sh CHECKOUT: the README's two commands stand, word for word, in .ci/run.
cd "$1" || exit 2
commands=$(grep '^\$(command -v sudo) apt-get update' README.md)
if [ "$(echo "$commands" | wc -l)" -ne 2 ]; then
  echo "README.md: expected two commands, found: $commands"
  exit 1
fi
echo "$commands" | {
  wrong=0
  while read -r command; do
    sed 's/^ *//' .ci/run | grep -Fqx "$command" || { echo "not in .ci/run: $command"; wrong=1; }
  done
  exit $wrong
}
