#!/bin/sh
# Print the Debian packages of scripts/debian.txt whose program, library or data this machine lacks, on one line.
PATH="$PATH:/usr/sbin:/sbin"
missing=""
while read -r name package; do
    case "$name" in
        "" | \#*) continue ;;
        /*) [ -e "$name" ] || missing="$missing $package" ;;
        *.so.*) ldconfig -p | grep -qF "$name" || missing="$missing $package" ;;
        *) command -v "$name" >/dev/null || missing="$missing $package" ;;
    esac
done <"$(dirname "$0")/debian.txt"
echo "${missing# }"
