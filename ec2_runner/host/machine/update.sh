#!/bin/bash
# Updates this host to the bucket's current release, before the worker starts. Runs as root.
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
bucket="s3://$CXR_BUCKET/system"

main() {
    mkdir -p "$releases"
    exec 9>"$base/update.lock"
    flock --wait 900 9 || keep "another update has not finished"
    trap 'finish $?' EXIT
    rm -rf "$base"/work.* # left by a killed update
    work=$(mktemp -d "$base/work.XXXXXX")

    local number name
    number=$(copy 30 "$bucket/releases/current" - | head -c 20) || keep "the bucket did not name a release"
    [[ $number =~ ^[0-9]+$ ]] || keep "the bucket does not name a release"
    copy 30 "$bucket/releases/$number/manifest.sha256" "$work/manifest.sha256" \
        || keep "release $number has no manifest, or the bucket did not answer"
    # The name holds the manifest's hash, so that a rebuilt release of the same number counts as another one.
    name="$number-$(sha256sum "$work/manifest.sha256" | head -c 12)"
    if [[ $(running) == "$name" ]]; then
        tell_success
        echo "update: release $name is already installed"
        exit 0
    fi
    is_refused "$name" && keep "release $name was refused a while ago"
    fetch "$number" "$name"
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
        echo "update: $1; release $now stays" >&2
        exit 0
    fi
    echo "update: $1; there is no other release to run" >&2
    sleep "${CXR_PAUSE:-10}"
    exit 1
}

# End as `keep` does, and remember this release as refused.
refuse() {
    rm -rf "${releases:?}/$1"
    is_refused "$1" || echo "$1" >>"$refused"
    touch "$refused"
    echo "release $1: $2" | copy 30 - "$bucket/hosts/$CXR_HOST_ID/update-failed.txt" || true
    keep "release $1 is refused: $2"
}

is_refused() {
    find "$refused" -mmin "+$retry_minutes" -delete 2>/dev/null || true
    grep --quiet --line-regexp --fixed-strings "$1" "$refused" 2>/dev/null
}

tell_success() {
    [[ -e $refused ]] || return 0
    rm -f "$refused"
    echo -n | copy 30 - "$bucket/hosts/$CXR_HOST_ID/update-failed.txt" || true
}

# copy SECONDS FROM TO [OPTION...]
copy() {
    limited "$1" aws --cli-connect-timeout 5 --cli-read-timeout 20 \
        s3 cp --only-show-errors "${@:2}"
}

# Download into $work, and keep only the files that the manifest names.
fetch() {
    local sum file new="$releases/$2"
    copy 300 "$bucket/releases/$1/" "$work/files" --recursive || keep "release $1 could not be downloaded"
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
