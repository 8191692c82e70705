# Varnish between the gateway and a recorder: `varnishd -F -n FOLDER -a 127.0.0.1:9004 -f varnish.vcl`.
# Nothing is cached; the built-in rules, which change Host, are not reached.
vcl 4.1;

backend recorder {
    .host = "127.0.0.1";
    .port = "9104";
}

sub vcl_recv {
    return (pass);
}
