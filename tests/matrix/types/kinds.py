"""Types with values that are easily lost, as literals without quotes; `None` is NULL."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A type, its values, what makes it, and where it can stand."""

    name: str
    values: tuple[str | None, ...]
    setup: str = ""
    key: bool = False  # it has an order, and can be a primary key
    places: tuple[str, ...] = ("value", "array", "composite", "domain")

    @property
    def title(self) -> str:
        """The name of its cell."""
        return self.name.replace('"', "'")


def _kind(name, *values, **more):
    return Kind(name, (*values, None), **more)


_NUMBERS = (
    _kind("smallint", "-32768", "0", "32767", key=True),
    _kind("integer", "-2147483648", "0", "2147483647", key=True),
    _kind("bigint", "-9223372036854775808", "9007199254740993", "0", "9223372036854775807", key=True),
    _kind("numeric", "1.0", "1.00", "0", "0.000", "NaN", "Infinity", "-Infinity", "1e40", "0.00000000000001", key=True),
    _kind("numeric(10,2)", "1.50", "0", "-99999999.99", "NaN"),
    _kind("numeric(3,-2)", "12300", "0", "NaN"),
    _kind("numeric(2,5)", "0.00012", "NaN"),
    _kind("real", "0", "-0", "0.1", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", key=True),
    _kind(
        "double precision", "0", "-0", "0.1", "NaN", "Infinity", "5e-324", "1e15", "1.7976931348623157e308", key=True
    ),
    _kind("money", "0", "-1234567.89", "92233720368547758.07", key=True),
    _kind("oid", "0", "4294967295", key=True),
)
_TEXTS = (
    _kind("text", "", " ", "NULL", "\\N", "\\x41", "a\nb\r\n,\"'", "\u00e9\U0001f600", "{}", key=True),
    _kind("varchar(8)", "", "NULL", "a\\b", "\u00e9", key=True),
    _kind("char(4)", "", "ab", "abcd"),
    _kind("name", "", "a b", "x", key=True),
    _kind('"char"', "", "a", "\\", "\\377", key=True),
    _kind("bytea", "", "\\x00ff", "\\x5c78", "\\x2c220a", key=True),
    _kind("bit(3)", "000", "101", key=True),
    _kind("bit varying", "", "1", "0001", key=True),
    _kind("json", "{}", '{"b": 1, "a": 1.00, "a": 2}', "[1,  2]", "null", '"x"'),
    _kind(
        "jsonb", "{}", '{"b": 1, "a": 1.00}', '{"b": 1, "a": 1.0}', "[[]]", "[]", "null", '"\\u00e9"', "1e400", key=True
    ),
    _kind("jsonpath", "$", "$.a[*] ? (@ > 1)"),
    _kind("tsvector", "", "'a':1A 'b':2", "'it''s'", key=True),
    _kind("tsquery", "", "'a' & !'b'", "'a' <-> 'b'", key=True),
    _kind("uuid", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", key=True),
)
_TIMES = (
    _kind("date", "2000-02-29", "infinity", "-infinity", "0044-03-15 BC", "20000-01-01", "0001-01-01", key=True),
    _kind("time", "00:00:00", "24:00:00", "12:34:56.000001", key=True),
    _kind("time(2)", "00:00:00.12", "24:00:00"),
    _kind("timetz", "12:00:00+00", "13:00:00+01", "24:00:00-15:59", "00:00:00+15:59:59", key=True),
    _kind(
        "timestamp",
        "2000-01-01 00:00:00.000001",
        "infinity",
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "20000-01-01",
        key=True,
    ),
    _kind("timestamp(3)", "2000-01-01 00:00:00.001", "infinity"),
    _kind(
        "timestamptz",
        "2000-01-01 00:00:00+00",
        "infinity",
        "-infinity",
        "0044-03-15 00:00:00+00 BC",
        "20000-01-01 00:00:00+00",
        key=True,
    ),
    _kind(
        "interval",
        "1 mon",
        "30 days",
        "1 day",
        "24:00:00",
        "-1 mon -1 day",
        "infinity",
        "-infinity",
        "0",
        "1 mon -1 day +00:00:00.000001",
    ),
    _kind("interval day to second", "1 day 02:03:04.5", "infinity"),
)
_PLACES = (
    _kind("inet", "10.0.0.1", "10.0.0.1/24", "::1", "::ffff:1.2.3.4", key=True),
    _kind("cidr", "10.0.0.0/8", "::/0", key=True),
    _kind("macaddr", "08:00:2b:01:02:03", key=True),
    _kind("macaddr8", "08:00:2b:01:02:03:04:05", key=True),
    _kind("point", "(0,-0)", "(NaN,Infinity)", "(0.1,1e300)"),
    _kind("line", "{1,-1,0}", "{0,-1,NaN}"),
    _kind("lseg", "[(0,0),(1,1)]"),
    _kind("box", "(1,4),(0,0)", "(2,2),(0,0)"),
    _kind("path", "((0,0),(1,1))", "[(0,0),(1,1)]"),
    _kind("polygon", "((0,0),(1,1),(1,0))"),
    _kind("circle", "<(0,0),1>", "<(0,0),Infinity>"),
    _kind("pg_lsn", "0/0", "FFFFFFFF/FFFFFFFF", key=True),
)
_SYSTEM = (
    _kind("xid", "0", "4294967295"),
    _kind("xid8", "18446744073709551615", key=True),
    _kind("cid", "7"),
    _kind("tid", "(0,1)", "(4294967295,65535)", key=True),
    _kind("regclass", "pg_class", "12345678"),
    _kind("regtype", "integer", "timestamp with time zone"),
    _kind("regproc", "now"),
    _kind("regprocedure", "sum(integer)"),
    _kind("regoper", "||/"),
    _kind("regoperator", "+(integer,integer)"),
    _kind("regrole", "pg_monitor"),
    _kind("regnamespace", "pg_catalog"),
    _kind("regconfig", "english"),
    _kind("regdictionary", "simple"),
    _kind("regcollation", '"C"'),
    _kind("pg_snapshot", "10:20:10,14"),
    _kind("txid_snapshot", "10:20:10,14"),
    _kind("int2vector", "1 2 3", ""),
    _kind("oidvector", "1 4294967295", "", key=True),
    _kind("aclitem", "pg_monitor=r/pg_monitor"),
    _kind("refcursor", "c", ""),
)
_RANGES = (
    _kind("int4range", "empty", "(,)", "[1,5)", key=True),
    _kind("int8range", "empty", "[1,9223372036854775807)"),
    _kind("numrange", "empty", "[1.0,2.0]", "[1.00,2.00]", "[0,NaN]", "(,5)", "[0,Infinity)"),
    _kind("daterange", "empty", "[2000-01-01,infinity)", "[2000-01-01,)", key=True),
    _kind("tsrange", "empty", "[-infinity,infinity]", '("2000-01-01 00:00:00",)'),
    _kind("tstzrange", "empty", '["2000-01-01 00:00:00+00","2000-01-02 00:00:00+00")', "(,)"),
    _kind("int4multirange", "{}", "{[1,2),[5,7)}"),
    _kind("int8multirange", "{}", "{(,)}"),
    _kind("nummultirange", "{}", "{[1.0,2.00]}", "{[1.00,2.0]}"),
    _kind("datemultirange", "{}", "{[2000-01-01,infinity)}"),
    _kind("tsmultirange", "{}", '{["2000-01-01 00:00:00",infinity)}'),
    _kind("tstzmultirange", "{}", '{["2000-01-01 00:00:00+00",infinity)}'),
    _kind("floatrange", "empty", "[-0,1]", "[0,NaN]", setup="CREATE TYPE floatrange AS RANGE (subtype = float8)"),
    _kind("textrange", "empty", '[" ",",\\"x"]', '["",)', setup="CREATE TYPE textrange AS RANGE (subtype = text)"),
    _kind(
        "lengthrange",
        "empty",
        '["1 mon","1 year")',
        '["30 days","1 year")',
        setup="CREATE TYPE lengthrange AS RANGE (subtype = interval)",
    ),
)
_OWN = (
    _kind("mood", "sad", 'it\'s, "ok"', setup="CREATE TYPE mood AS ENUM ('sad', 'it''s, \"ok\"', 'happy')", key=True),
    _kind(
        "pair",
        '(1,"a,b")',
        "(,)",
        '(,"")',
        '(2,"(\\"x\\")")',
        setup="CREATE TYPE pair AS (n integer, t text)",
        key=True,
    ),
    _kind(
        "nested",
        '("(1,x)","{1,NULL}")',
        "(,)",
        '("(,)","[0:1]={1,2}")',
        setup="CREATE TYPE inner_pair AS (n integer, t text); CREATE TYPE nested AS (p inner_pair, a integer[])",
    ),
    _kind(
        "length_pair",
        '("1 mon",1.0)',
        '("30 days",1.0)',
        '("1 mon",1.00)',
        setup="CREATE TYPE length_pair AS (l interval, n numeric)",
    ),
    _kind("json_pair", '("{""b"": 1,  ""a"": 2}",1)', setup="CREATE TYPE json_pair AS (j json, n integer)"),
    _kind("positive", "1", "2147483647", setup="CREATE DOMAIN positive AS integer CHECK (VALUE > 0)", key=True),
    _kind("any_length", "1 mon", "30 days", setup="CREATE DOMAIN any_length AS interval"),
    _kind("few", "{1,2}", "{}", "[0:1]={1,2}", "{{1,2},{3,4}}", setup="CREATE DOMAIN few AS integer[]"),
    _kind("moods", "{sad,NULL}", "{}", setup="CREATE TYPE mood_of AS ENUM ('sad'); CREATE DOMAIN moods AS mood_of[]"),
    _kind(
        "odd",
        "",
        "x",
        "\\",
        ",\"'",
        places=("value", "array", "composite", "domain"),
        setup="""
        CREATE TYPE odd;
        CREATE FUNCTION odd_in(cstring) RETURNS odd AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
        CREATE FUNCTION odd_out(odd) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
        CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = text)""",
    ),
    _kind(
        "semicolons",
        "1",
        "-1",
        setup="""
        CREATE TYPE semicolons;
        CREATE FUNCTION semicolons_in(cstring) RETURNS semicolons AS 'int4in' LANGUAGE internal IMMUTABLE STRICT;
        CREATE FUNCTION semicolons_out(semicolons) RETURNS cstring AS 'int4out' LANGUAGE internal IMMUTABLE STRICT;
        CREATE TYPE semicolons (INPUT = semicolons_in, OUTPUT = semicolons_out, LIKE = integer, DELIMITER = ';')""",
    ),
    _kind("vector", "[1,2,3]", "[0.1,-0,1e-30]", setup="CREATE EXTENSION vector"),
    _kind("halfvec", "[1,2]", setup="CREATE EXTENSION IF NOT EXISTS vector"),
    _kind("sparsevec", "{1:1,3:2}/5", setup="CREATE EXTENSION IF NOT EXISTS vector"),
)
# further arrays, which are no list: values are literals of the whole array
_ARRAYS = (
    _kind(
        "integer[]",
        "{}",
        "{NULL}",
        "{{1,2},{3,4}}",
        "{1,2,3,4}",
        "[0:3]={1,2,3,4}",
        "[2:2][0:1]={{1,NULL}}",
        places=("value",),
        key=True,
    ),
    _kind(
        "text[]",
        "{}",
        '{""}',
        '{NULL,"NULL"}',
        '{"a,b","c\\\\d","e\\"f"}',
        "{{a,b},{c,d}}",
        places=("value",),
        key=True,
    ),
    _kind("date[]", "{2000-01-01,infinity,NULL}", "{}", '{"0044-03-15 BC"}', "{2000-01-01}", places=("value",)),
    _kind("timestamptz[]", '{"2000-01-01 00:00:00+00",infinity}', '{"2000-01-01 00:00:00+00"}', places=("value",)),
    _kind("double precision[]", "{NaN,Infinity,-0,NULL}", "{0}", "{-0}", "{{NaN}}", places=("value",)),
    _kind("numeric[]", "{1.0,NaN}", "{1.00,NaN}", places=("value",)),
    _kind("boolean[]", "{t,f,NULL}", "{{t},{f}}", places=("value",)),
    _kind("box[]", "{(1,1),(0,0);(2,2),(0,0)}", "{}", places=("value",)),
    _kind("bytea[]", '{"\\\\x00","\\\\x5c"}', places=("value",)),
    _kind("jsonb[]", '{"{\\"a\\": 1.00}","[]",NULL}', places=("value",)),
    _kind("interval[]", '{"1 mon","30 days"}', '{"30 days","1 mon"}', places=("value",)),
)
BOOLEAN = _kind("boolean", "t", "f", key=True)
KINDS = (BOOLEAN, *_NUMBERS, *_TEXTS, *_TIMES, *_PLACES, *_SYSTEM, *_RANGES, *_OWN, *_ARRAYS)
KEYS = tuple(kind for kind in KINDS if kind.key)
