-- sqlite
CREATE TABLE quota_use ( "key" TEXT NOT NULL, quota TEXT NOT NULL, period TEXT NOT NULL, server TEXT NOT NULL, granted BIGINT NOT NULL, used BIGINT NOT NULL, PRIMARY KEY ("key", quota, period, server) )
CREATE TABLE usage_flush ( server TEXT NOT NULL, number BIGINT NOT NULL, time DOUBLE NOT NULL, PRIMARY KEY (server) )
CREATE TABLE usage_hour ( "key" TEXT NOT NULL, model TEXT NOT NULL, hour BIGINT NOT NULL, requests BIGINT NOT NULL, rows BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, answer_tokens BIGINT NOT NULL, bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL, compute_us BIGINT NOT NULL, refusals BIGINT NOT NULL, PRIMARY KEY ("key", model, hour) )
CREATE INDEX usage_of_hour ON usage_hour (hour)
-- postgresql
CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$
CREATE TABLE quota_use ( key TEXT NOT NULL, quota TEXT NOT NULL, period TEXT NOT NULL, server TEXT NOT NULL, granted BIGINT NOT NULL, used BIGINT NOT NULL, PRIMARY KEY (key, quota, period, server) )
CREATE TABLE usage_flush ( server TEXT NOT NULL, number BIGINT NOT NULL, time DOUBLE PRECISION NOT NULL, PRIMARY KEY (server) )
CREATE TABLE usage_hour ( key TEXT NOT NULL, model TEXT NOT NULL, hour BIGINT NOT NULL, requests BIGINT NOT NULL, rows BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, answer_tokens BIGINT NOT NULL, bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL, compute_us BIGINT NOT NULL, refusals BIGINT NOT NULL, PRIMARY KEY (key, model, hour) )
CREATE INDEX usage_of_hour ON usage_hour (hour)
