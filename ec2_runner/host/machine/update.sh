#!/bin/bash
# Brings this host to the bucket's current release, before the worker starts. Runs as root.
#
# The release is installed beside the one that runs, tried, and only then switched to. Whatever goes wrong,
# the one that runs stays, and this ends well; it fails only where there is none. A refused release is tried
# again after a while, and its reason stands in the bucket, in update-failed.txt of this host.
set -euo pipefail
umask 022

base="${CXR_PREFIX:-}/opt/cxr"
releases="$base/releases"
refused="$base/refused" # names of refused releases; the file is as old as the last refusal
python=${CXR_PYTHON:-python3.12}
user=${CXR_ACCOUNT-cxr}
retry_minutes=10
bucket="s3://$CXR_BUCKET/system"

main() {
    mkdir -p "$releases"
    exec 9>"$base/update.lock"
    flock --wait 900 9 || keep "another update does not end"
    trap 'finish $?' EXIT
    rm -rf "$base"/work.* # of a killed update
    work=$(mktemp -d "$base/work.XXXXXX")

    local number name
    number=$(copy 30 "$bucket/releases/current" - | head -c 20) || keep "the bucket did not name a release"
    [[ $number =~ ^[0-9]+$ ]] || keep "the bucket names no release"
    copy 30 "$bucket/releases/$number/manifest.sha256" "$work/manifest.sha256" \
        || keep "release $number has no manifest, or the bucket did not answer"
    # With the manifest's hash, so that a release that was built again under its number is another one.
    name="$number-$(sha256sum "$work/manifest.sha256" | head -c 12)"
    if [[ $(running) == "$name" ]]; then
        tell_success
        echo "update: release $name is here"
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

# However it ends, the release that runs may start.
finish() {
    [[ -z ${work:-} ]] || rm -rf "$work"
    [[ $1 == 0 || -n ${ended:-} ]] || keep "the update broke off"
}

# End, with the release that runs.
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

# The same, and remember that this release is not good.
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

# Download into $work, and take over what the manifest names and nothing else.
fetch() {
    local sum file new="$releases/$2"
    copy 300 "$bucket/releases/$1/" "$work/files" --recursive || keep "release $1 could not be downloaded"
    while read -r sum file; do
        [[ $file =~ ^(wheelhouse|host)/[A-Za-z0-9_.+-]+$ ]] \
            || refuse "$2" "its manifest names what no release has"
        echo "$sum  $work/files/$file" | sha256sum --check --status --strict \
            || refuse "$2" "$file is not what its manifest says"
    done <"$work/manifest.sha256"
    rm -rf "$new" # what a killed update left
    while read -r sum file; do
        mkdir -p "$new/$(dirname "$file")"
        mv "$work/files/$file" "$new/$file"
    done <"$work/manifest.sha256"
}

build() {
    local new="$releases/$1"
    limited 120 "$python" -m venv "$new/venv" || refuse "$1" "no environment could be made for it"
    limited 300 "$new/venv/bin/pip" --quiet --disable-pip-version-check --no-cache-dir install \
        --no-index --find-links "$new/wheelhouse" "$new"/wheelhouse/*.whl \
        || refuse "$1" "its packages do not install"
    rm -rf "$new/wheelhouse"
    as_user 120 "$new/venv/bin/cxr" worker --check \
        || refuse "$1" "it does not pass its own check"
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

# The new release's scripts and units first: if they do not install, those of the old one are put back.
switch() {
    local new="$releases/$1" old
    old=$(running) || old=
    if ! limited 400 bash "$new/host/install.sh"; then
        [[ -z $old ]] || limited 400 bash "$releases/$old/host/install.sh" || true
        refuse "$1" "its scripts do not install"
    fi
    [[ -z $old ]] || link "$old" previous
    link "$1" current
}

link() {
    ln -sfn "releases/$1" "$base/$2.new"
    mv -fT "$base/$2.new" "$base/$2"
}

# Only the release that runs and the one before it stay.
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
