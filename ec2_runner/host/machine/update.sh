#!/bin/bash
# Updates this host to the current release, before the worker starts. Runs as root.
#
# A release is named <number>-<SHA-256 of its manifest>. The first one is that of the launch template, whose name
# CloudFormation wrote; later ones are named by `releases/current` in the artifact bucket, to which only `cxr deploy`
# may write. No file is read before the manifest has proved to be the named one, and the file to be the manifest's.
#
# The release is installed beside the running one, tested, and only then switched to. Whatever goes wrong,
# the running release stays, and this script succeeds; it fails only if there is none. A refused release is
# tried again after a while; the reason is in the bucket, in update-failed.txt of this host.
set -euo pipefail
umask 022

base="${CXR_PREFIX:-}/opt/cxr"
releases="$base/releases"
refused="$base/refused" # names of refused releases; its age is that of the last refusal
python=${CXR_PYTHON:-python3.12}
user=${CXR_ACCOUNT-cxr}
retry_minutes=10
artifacts="s3://$CXR_ARTIFACTS/releases"
own="s3://$CXR_BUCKET/system/hosts/$CXR_HOST_ID"
console="${CXR_PREFIX:-}/dev/console" # `cxr status` shows it when the log does not reach the bucket

main() {
    mkdir -p "$releases"
    exec 9>"$base/update.lock"
    flock --wait 900 9 || keep "another update has not finished"
    trap 'finish $?' EXIT
    rm -rf "$base"/work.* # left by a killed update
    work=$(mktemp -d "$base/work.XXXXXX")

    local wanted hash name
    if running >/dev/null || [[ -z ${CXR_FIRST_RELEASE:-} ]]; then
        wanted=$(copy 30 "$artifacts/current" - | head -c 100) || keep "the bucket did not name a release"
    else
        wanted=$CXR_FIRST_RELEASE
    fi
    [[ $wanted =~ ^([0-9]{1,9})-([0-9a-f]{64})$ ]] || keep "the bucket does not name a release"
    hash=${BASH_REMATCH[2]}
    name="${BASH_REMATCH[1]}-${hash:0:12}" # here
    if [[ $(running) == "$name" ]]; then
        tell_success
        echo "update: release $name is already installed"
        exit 0
    fi
    is_refused "$name" && keep "release $name was refused a while ago"
    copy 30 "$artifacts/$wanted/manifest.sha256" "$work/manifest.sha256" \
        || keep "release $name has no manifest, or the bucket did not answer"
    sha256sum --check --status --strict <<<"$hash  $work/manifest.sha256" \
        || refuse "$name" "its manifest is not the one that was deployed"
    fetch "$wanted" "$name"
    build "$name"
    switch "$name"
    tidy "$name"
    tell_success
    echo "update: release $name is installed"
}

running() {
    local link
    link=$(readlink "$base/current") && [[ -x $base/current/venv/bin/cxr ]] && basename "$link"
}

# Let the running release start, however this ends.
finish() {
    [[ -z ${work:-} ]] || rm -rf "$work"
    [[ $1 == 0 || -n ${ended:-} ]] || keep "the update broke off"
}

# End, and keep the running release.
keep() {
    local now
    ended=yes
    if now=$(running); then
        tell "$1; release $now stays"
        exit 0
    fi
    tell "$1; there is no other release to run"
    sleep "${CXR_PAUSE:-10}"
    exit 1
}

tell() {
    echo "update: $1" >&2
    [[ ! -w $console ]] || echo "cxr update: $1" >"$console" || true
}

# End as `keep` does, and remember this release as refused.
refuse() {
    rm -rf "${releases:?}/$1"
    is_refused "$1" || echo "$1" >>"$refused"
    touch "$refused"
    echo "release $1: $2" | copy 30 - "$own/update-failed.txt" || true
    keep "release $1 is refused: $2"
}

is_refused() {
    find "$refused" -mmin "+$retry_minutes" -delete 2>/dev/null || true
    grep --quiet --line-regexp --fixed-strings "$1" "$refused" 2>/dev/null
}

tell_success() {
    [[ -e $refused ]] || return 0
    rm -f "$refused"
    echo -n | copy 30 - "$own/update-failed.txt" || true
}

# copy SECONDS FROM TO [OPTION...]
copy() {
    limited "$1" aws --cli-connect-timeout 5 --cli-read-timeout 20 \
        s3 cp --only-show-errors "${@:2}"
}

# Download into $work, and keep only the files that the manifest names.
fetch() {
    local sum file new="$releases/$2"
    copy 300 "$artifacts/$1/" "$work/files" --recursive || keep "release $2 could not be downloaded"
    while read -r sum file; do
        [[ $file =~ ^(wheelhouse|host)/[A-Za-z0-9_.+-]+$ ]] \
            || refuse "$2" "its manifest names a file that no release has"
        echo "$sum  $work/files/$file" | sha256sum --check --status --strict \
            || refuse "$2" "$file does not match its manifest"
    done <"$work/manifest.sha256"
    rm -rf "$new" # left by a killed update
    while read -r sum file; do
        mkdir -p "$new/$(dirname "$file")"
        mv "$work/files/$file" "$new/$file"
    done <"$work/manifest.sha256"
}

build() {
    local new="$releases/$1"
    limited 120 "$python" -m venv "$new/venv" || refuse "$1" "its virtual environment could not be created"
    limited 300 "$new/venv/bin/pip" --quiet --disable-pip-version-check --no-cache-dir install \
        --no-index --find-links "$new/wheelhouse" "$new"/wheelhouse/*.whl \
        || refuse "$1" "its packages could not be installed"
    rm -rf "$new/wheelhouse"
    as_user 120 "$new/venv/bin/cxr" worker --check \
        || refuse "$1" "it failed its own check"
}

# limited SECONDS COMMAND...
limited() {
    timeout --kill-after=5 "$@"
}

# as_user SECONDS COMMAND...
as_user() {
    if [[ -n $user ]]; then
        limited "$1" setpriv --reuid="$user" --regid="$user" --init-groups --no-new-privs "${@:2}"
    else
        limited "$@"
    fi
}

# Install the new release's scripts and units first; if that fails, put the old ones back.
switch() {
    local new="$releases/$1" old
    old=$(running) || old=
    if ! limited 400 bash "$new/host/install.sh"; then
        [[ -z $old ]] || limited 400 bash "$releases/$old/host/install.sh" || true
        refuse "$1" "its scripts could not be installed"
    fi
    [[ -z $old ]] || link "$old" previous
    link "$1" current
}

link() {
    ln -sfn "releases/$1" "$base/$2.new"
    mv -fT "$base/$2.new" "$base/$2"
}

# Delete all releases except the running one and the one before it.
tidy() {
    local path previous
    previous=$(basename "$(readlink "$base/previous" || true)")
    for path in "$releases"/*; do
        case $(basename "$path") in
            "$1" | "$previous") ;;
            *) rm -rf "$path" ;;
        esac
    done
}

main
