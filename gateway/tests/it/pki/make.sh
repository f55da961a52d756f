# Makes the certificates of the tests anew; run it in this folder. The authority's own key is not kept.
set -eu
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cat >"$work/config" <<END
[ca]
default_ca = tests
[tests]
database = $work/index
serial = $work/serial
new_certs_dir = $work
default_md = sha256
policy = any
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
[server]
subjectAltName = DNS:localhost, IP:127.0.0.1
END
: >"$work/index"
echo 01 >"$work/serial"
sign() { openssl ca -batch -notext -config "$work/config" -startdate 20200101000000Z -enddate 21200101000000Z "$@" 2>/dev/null; }
request() {
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$2"
    openssl req -new -key "$2" -subj "/CN=$1" -out "$work/request"
}
request "tests only" "$work/ca-key"
sign -selfsign -keyfile "$work/ca-key" -extensions authority -in "$work/request" -out ca.pem
for name in first second; do
    request $name $name-key.pem
    sign -cert ca.pem -keyfile "$work/ca-key" -extensions server -in "$work/request" -out $name.pem
done
