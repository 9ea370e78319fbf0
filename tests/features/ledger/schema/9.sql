-- sqlite
CREATE TABLE server ( url TEXT NOT NULL, zone TEXT NOT NULL, models TEXT DEFAULT '[]' NOT NULL, time DOUBLE NOT NULL, PRIMARY KEY (url) )
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE server ( url TEXT NOT NULL, zone TEXT NOT NULL, models TEXT DEFAULT '[]' NOT NULL, time DOUBLE PRECISION NOT NULL, PRIMARY KEY (url) )
